"""The same model in PyTorch (pip install 'gpt2kit[torch]'), with a gradient."""

import torch

from gpt2kit import AutoTokenizer, GPT2LMHeadModel, builtin

tokenizer = AutoTokenizer.from_pretrained(builtin.path())
model = GPT2LMHeadModel.from_pretrained(builtin.path(), dtype=torch.float32)
inputs = tokenizer("In the beginning God created the heaven and the earth.", return_tensors="pt")
output = model(**inputs, labels=inputs["input_ids"])
output.loss.backward()
print("loss", output.loss.item(), "gradient of wte", model.transformer.wte.weight.grad.norm().item())
