"""from_pretrained and save_pretrained: models from folders and to folders.

Read base.py (PreTrainedModel), arguments.py (what may be asked), weights.py (filling a model), placement.py (on
which device), info.py (what was missing) and saving.py.
"""
