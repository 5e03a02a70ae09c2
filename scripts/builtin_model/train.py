"""Train the built-in model on the CPU for a given time.

Reads <data>/ids/*.npy (see train_tokenizer.py), writes to <out>:

    log.jsonl        one line a report: time, step, tokens, loss, learning rate, bits per byte
    state.pt         everything to go on from; written every --save-every seconds; read if it is there
    model/           config.json and float32 weights, at the end

Most of the run sees short windows, which are cheaper; the last part sees whole ones of n_positions.
The learning rate follows the clock: warm-up, flat, then a linear descent that ends at zero when the time is
up, so a busy machine trains on fewer tokens but never stops half-way down.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate import HELD_OUT, held_out, total_bits
from muon import Muon
from replica import Replica
from torch import Tensor

from gpt2kit.checkpoint import save_checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.model import GPT2Model

# Passes over each source in one epoch. Stories are few and are what people like to read.
REPEATS = {"austen": 4, "twain": 4, "newton": 1, "kjv": 1, "web": 1, "mhcc": 1, "tdavid": 1, "sotu": 1}
MUON_LEARNING_RATE = 0.02
ADAM_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
WARM_UP, COOL_DOWN = 0.01, 0.5  # fractions of the run
SHORT_WINDOW, SHORT_PHASE = 256, 0.7  # tokens; fraction of the run
MAX_GRADIENT_NORM = 1.0
MONITOR_TOKENS = 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=55.0, help="training time, all runs together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-embd", type=int, default=256)
    parser.add_argument("--n-layer", type=int, default=6)
    parser.add_argument("--n-head", type=int, default=4)
    parser.add_argument("--n-positions", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=2048, help="tokens that a thread takes at a time")
    parser.add_argument("--batch", type=int, default=8192, help="tokens a step")
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # each replica is one thread
    arguments.out.mkdir(parents=True, exist_ok=True)
    Trainer(arguments).run()


class Trainer:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        data: Path = arguments.data
        vocab = json.loads((data / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
        self.end_of_text = vocab["<|endoftext|>"]
        self.config = GPT2Config(
            vocab_size=len(vocab),
            n_positions=arguments.n_positions,
            n_embd=arguments.n_embd,
            n_layer=arguments.n_layer,
            n_head=arguments.n_head,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=self.end_of_text,
            eos_token_id=self.end_of_text,
        )
        model = GPT2Model(self.config)
        self.masters = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.weights = [m.bfloat16() for m in self.masters.values()]
        self.replicas = [Replica(self.config, self.weights) for _ in range(arguments.threads)]
        self.pool = ThreadPoolExecutor(arguments.threads)
        hidden = [name for name, m in self.masters.items() if name.startswith("h.") and m.dim() == 2]
        # One Muon a thread: matrices are independent of each other.
        self.muon_names = [hidden[i :: arguments.threads] for i in range(arguments.threads)]
        self.muons = [Muon([self.masters[n] for n in names], WEIGHT_DECAY) for names in self.muon_names]
        self.adam_names = [name for name in self.masters if name not in hidden]
        adam_tensors = [self.masters[n] for n in self.adam_names]
        self.adam = torch.optim.AdamW(adam_tensors, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.monitor = {name: self._monitored(name) for name in HELD_OUT}
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        # Where in the data: windows taken of this epoch's windows of this length.
        self.epoch, self.window, self.window_length = 0, 0, 0

    def run(self) -> None:
        state_path = self.arguments.out / "state.pt"
        if state_path.exists():
            self.load_state(torch.load(state_path, weights_only=True))
        budget = self.arguments.minutes * 60
        started, last_save = time.monotonic() - self.seconds, time.monotonic()
        last_report, tokens_then, losses = self.seconds, self.tokens, []
        while self.seconds < budget:
            progress = self.seconds / budget
            short = min(SHORT_WINDOW, self.config.n_positions)
            self.set_window_length(short if progress < SHORT_PHASE else self.config.n_positions)
            rate = learning_rate_factor(progress)
            batch = [next(self.stream) for _ in range(self.arguments.batch // self.window_length)]
            losses.append(self.train_step(batch, rate))
            self.seconds = time.monotonic() - started
            if self.step % 50 == 0:
                speed = (self.tokens - tokens_then) / (self.seconds - last_report)
                self.log(loss=float(np.mean(losses)), rate=rate, tokens_per_s=round(speed))
                last_report, tokens_then, losses = self.seconds, self.tokens, []
            if time.monotonic() - last_save > self.arguments.save_every:
                self.log(**self.bits_per_byte())
                torch.save(self.state(), state_path.with_suffix(".tmp"))
                state_path.with_suffix(".tmp").replace(state_path)
                last_save = time.monotonic()
        self.log(**self.bits_per_byte())
        weights = {name: master.numpy() for name, master in self.masters.items()}
        save_checkpoint(self.arguments.out / "model", weights, self.config)

    def train_step(self, windows: list[Tensor], rate: float) -> float:
        """Forward, backward and update on one batch; return the mean loss in nats."""
        size = max(1, self.arguments.micro_batch // self.window_length)
        batches = [torch.stack(windows[i : i + size]) for i in range(0, len(windows), size)]
        num_tokens = len(windows) * self.window_length

        def work(replica: Replica) -> None:
            while True:
                try:
                    batch = batches.pop()  # the faster thread takes more
                except IndexError:
                    return
                replica.backward(batch, 1.0 / num_tokens)

        list(self.pool.map(work, self.replicas))
        self._update(rate)
        loss = sum(replica.loss_sum for replica in self.replicas) / num_tokens
        for replica in self.replicas:
            replica.loss_sum = 0.0
        self.step += 1
        self.tokens += num_tokens
        return loss

    @torch.no_grad()
    def _update(self, rate: float) -> None:
        totals = [
            torch.stack(parts).sum(0) for parts in zip(*(r.gradients for r in self.replicas), strict=True)
        ]
        norm = torch.stack([g.norm() for g in totals]).norm()
        scale = min(1.0, MAX_GRADIENT_NORM / (norm.item() + 1e-6))
        gradients = dict(zip(self.masters, (g.mul_(scale) for g in totals), strict=True))

        def muon_step(muon: Muon, names: list[str]) -> None:
            muon.step([gradients[n] for n in names], MUON_LEARNING_RATE * rate)

        list(self.pool.map(muon_step, self.muons, self.muon_names))
        for name in self.adam_names:
            self.masters[name].grad = gradients[name]
        self.adam.param_groups[0]["lr"] = ADAM_LEARNING_RATE * rate
        self.adam.step()
        for weight, master in zip(self.weights, self.masters.values(), strict=True):
            weight.copy_(master)
        for replica in self.replicas:
            for gradient in replica.gradients:
                gradient.zero_()

    def set_window_length(self, length: int) -> None:
        """Begin a new epoch with windows of another length, if it is another."""
        if length != self.window_length:
            if self.window_length:
                self.epoch, self.window = self.epoch + 1, 0
            self.window_length = length
            self.stream = self._windows()

    def _windows(self) -> Iterator[Tensor]:
        """Yield (window_length + 1,) ids for ever, from where the state says."""
        length = self.window_length
        while True:
            order = random.Random(f"{self.arguments.seed} {self.epoch}")
            stream = self._epoch_stream(order)
            starts = list(range(order.randrange(length), len(stream) - length - 1, length))
            order.shuffle(starts)
            while self.window < len(starts):
                start = starts[self.window]
                self.window += 1
                yield torch.from_numpy(stream[start : start + length + 1].astype(np.int64))
            self.epoch, self.window = self.epoch + 1, 0

    def _epoch_stream(self, order: random.Random) -> np.ndarray:
        """All documents, repeated as REPEATS says, in a new order, end to end."""
        documents = []
        for name, repeats in REPEATS.items():
            ids = np.load(self.arguments.data / "ids" / f"{name}.npy")
            ends = np.flatnonzero(ids == self.end_of_text) + 1
            documents += np.split(ids, ends)[:-1] * repeats
        order.shuffle(documents)
        return np.concatenate(documents)

    def _monitored(self, name: str) -> tuple[Tensor, int]:
        """The beginning of a held-out text, and its share of the bytes."""
        ids, num_bytes = held_out(self.arguments.data, name)
        return ids[: MONITOR_TOKENS + 1], num_bytes * min(1.0, MONITOR_TOKENS / (len(ids) - 1))

    def bits_per_byte(self) -> dict[str, float]:
        trunk = self.replicas[0].model.eval()
        length = self.window_length
        bits = {name: total_bits(trunk, ids, length) / size for name, (ids, size) in self.monitor.items()}
        trunk.train()
        return {f"{name}_bits_per_byte": round(value, 4) for name, value in bits.items()}

    def log(self, **values: float) -> None:
        line = {"seconds": round(self.seconds, 1), "step": self.step, "tokens": self.tokens, **values}
        with open(self.arguments.out / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def state(self) -> dict[str, Any]:
        return {
            "masters": self.masters,
            "muon": [muon.velocities for muon in self.muons],
            "adam": self.adam.state_dict(),
            "progress": [self.step, self.tokens, self.seconds, self.epoch, self.window, self.window_length],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state["masters"][name])
            for weight, master in zip(self.weights, self.masters.values(), strict=True):
                weight.copy_(master)
        for muon, velocities in zip(self.muons, state["muon"], strict=True):
            muon.velocities = velocities
        self.adam.load_state_dict(state["adam"])
        self.step, self.tokens, self.seconds, self.epoch, self.window, self.window_length = state["progress"]
        self.stream = self._windows()


def learning_rate_factor(progress: float) -> float:
    """Rise over WARM_UP, stay at 1, fall linearly to 0 over the last COOL_DOWN of the run."""
    return min(progress / WARM_UP, 1.0, (1.0 - progress) / COOL_DOWN) if progress < 1.0 else 0.0


if __name__ == "__main__":
    main()
