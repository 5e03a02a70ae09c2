"""What training scripts need beside a model: batches (collators.py), learning rates (schedules.py), seeds (seed.py).

Names, arguments and values are Transformers'. There is no training loop here yet: write your own, or hand our models
to transformers.Trainer.
"""
