"""Trains the demo model from scratch (tower, projector and language model together) and saves it in bfloat16.

usage: train.py MODEL_DIRECTORY [--steps N] [--batch N] [--minutes M] [--workers N] [--seed N]

MODEL_DIRECTORY must hold what tokenizer.py wrote. Samples are drawn on the fly by worker processes, each batch from its
own seed, so a run is fixed by --seed and --steps up to the rounding of the device's kernels.
"""

from __future__ import annotations

import argparse
import functools
import io
import math
import os
import random
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers are forked: the tokenizer's threads would not be

import compat  # noqa: F401  (before transformers)
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset
from transformers import LlavaConfig, LlavaForConditionalGeneration

import world
from layout import BOS_ID, CLIP_MEAN, CLIP_STD, EOS_ID, IMAGE_ID, IMAGE_SIDE, IMAGE_TOKENS, PAD_ID
from layout import hub_name, model_config

IGNORED = -100  # label of tokens that are not part of an answer
Batch = dict[str, np.ndarray]

TEXT_SHARE = 0.12  # of the samples have no image
# How often a question about an image is of a category. Lists ("layout") teach where things are; "count" and
# "position" need the most practice.
WEIGHTS = {"shape": 14, "colour": 12, "position": 16, "count": 22, "digit": 10, "caption": 12, world.LAYOUT: 14}


# -------------------------------------------------------------------------------------------------------- samples


def pixels(image: Image.Image) -> np.ndarray:
    """What the CLIP image processor does before it normalises: short side to 64, middle 64 x 64; uint8 [3, 64, 64]."""
    scale = IMAGE_SIDE / min(image.size)
    size = (int(image.width * scale), int(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - IMAGE_SIDE) // 2, (size[1] - IMAGE_SIDE) // 2
    image = image.crop((left, top, left + IMAGE_SIDE, top + IMAGE_SIDE))
    return np.asarray(image).transpose(2, 0, 1)


def photograph(rng: random.Random, scene: world.Scene) -> np.ndarray:
    """The scene's pixels as read from a stored file of random size and format."""
    image = world.render(scene, world.draw_size(rng))
    name, options = world.draw_format(rng)
    if name != "PNG":  # lossless, and by far the slowest to write
        image = Image.open(io.BytesIO(world.encode(image, name, options))).convert("RGB")
    return pixels(image)


class Conversations:
    """Draws training samples: up to three questions on one image, or up to five facts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Pieces never cross a space, and the tokenizer treats the text on each side of <image> on its own, so a
        # conversation's tokens are the tokens of its parts (check_prompt verifies it).
        self.encode = functools.lru_cache(maxsize=50_000)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        )
        self.facts = world.facts()

    def questions(self, rng: random.Random, scene: world.Scene, categories: list[str]) -> list[world.Question]:
        asked = (world.ask(rng, scene, category) for category in categories)
        return [question for question in asked if question]

    def tokens(self, questions: list[world.Question], with_image: bool) -> tuple[list[int], list[int]]:
        """Token ids and labels of a conversation."""
        ids = [BOS_ID]
        if with_image:
            ids += [*self.encode("USER: "), *[IMAGE_ID] * IMAGE_TOKENS]
        labels = [IGNORED] * len(ids)
        for turn, question in enumerate(questions):
            opening = "\n" if with_image and turn == 0 else "USER: "
            prompt = self.encode(f"{opening}{question.text} ASSISTANT:")
            answer = [*self.encode(question.answer), EOS_ID]
            ids += [*prompt, *answer]
            labels += [IGNORED] * len(prompt) + answer
        return ids, labels

    def with_image(self, rng: random.Random) -> tuple[list[int], list[int], np.ndarray]:
        while True:
            scene = world.draw_scene(rng, "train")
            categories = rng.choices(tuple(WEIGHTS), weights=tuple(WEIGHTS.values()), k=rng.choice((1, 2, 3, 3)))
            if questions := self.questions(rng, scene, categories):
                return *self.tokens(questions, with_image=True), photograph(rng, scene)

    def text_only(self, rng: random.Random) -> tuple[list[int], list[int]]:
        return self.tokens(rng.sample(self.facts, rng.randint(1, 5)), with_image=False)


def pad(rows: list[list[int]], value: int) -> np.ndarray:
    """Rows padded on the right to one length, a multiple of 16 so that few shapes occur."""
    width = -(-max(map(len, rows)) // 16) * 16
    return np.array([row + [value] * (width - len(row)) for row in rows], dtype=np.int64)


def collect(samples: list[tuple[list[int], list[int]]], images: list[np.ndarray]) -> Batch:
    return {
        "ids": pad([ids for ids, _ in samples], PAD_ID),
        "labels": pad([labels for _, labels in samples], IGNORED),
        "images": np.stack(images),
    }


class Batches(Dataset[Batch]):
    """Batch i of a run: a function of the seed and i alone, whatever the number of workers."""

    def __init__(self, conversations: Conversations, seed: int, count: int, size: int) -> None:
        self.conversations, self.seed, self.count, self.size = conversations, seed, count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        rng = random.Random(f"train-{self.seed}-{index}")
        texts = round(self.size * TEXT_SHARE)
        pictured = [self.conversations.with_image(rng) for _ in range(self.size - texts)]
        samples = [(ids, labels) for ids, labels, _ in pictured]
        samples += [self.conversations.text_only(rng) for _ in range(texts)]
        return collect(samples, [image for _, _, image in pictured])


def unchanged(batch: Batch) -> Batch:
    """Keeps batches as NumPy arrays, which travel between processes without shared memory."""
    return batch


def validation_batches(conversations: Conversations, size: int) -> dict[str, Batch]:
    """One batch of single questions for each category, from scenes of the training split that training will not see
    (another seed): the demo's questions stay untouched until the end."""
    batches = {}
    for category in world.IMAGE_CATEGORIES:
        rng = random.Random(f"validation-{category}")
        samples, images = [], []
        while len(samples) < size:
            scene = world.draw_scene(rng, "train")
            if questions := conversations.questions(rng, scene, [category]):
                samples.append(conversations.tokens(questions, with_image=True))
                images.append(photograph(rng, scene))
        batches[category] = collect(samples, images)
    facts = [conversations.tokens([fact], with_image=False) for fact in conversations.facts]
    batches["fact"] = collect(facts, [np.zeros((3, IMAGE_SIDE, IMAGE_SIDE), np.uint8)])
    return batches


def check_prompt(conversations: Conversations, tokenizer: Tokenizer) -> None:
    """The joined parts must be the tokens of the whole prompt as the processor builds it."""
    question = world.Question("colour", "What colour is the object at the top left?", "red")
    for with_image in (True, False):
        image = "<image>" * IMAGE_TOKENS + "\n" if with_image else ""
        whole = tokenizer.encode(f"USER: {image}{question.text} ASSISTANT: {question.answer}").ids
        joined, _ = conversations.tokens([question], with_image)
        if joined != [*whole, EOS_ID]:
            raise SystemExit("the training prompt differs from the processor's")


# ------------------------------------------------------------------------------------------------------- training


def new_model(seed: int) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    config = model_config()
    for part in (config, config["text_config"]):
        del part["torch_dtype"]  # weights are float32 while they are trained
    return LlavaForConditionalGeneration(LlavaConfig(**config))


class Device:
    """Moves batches to the device and normalises their images there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mean = torch.tensor(CLIP_MEAN, device=name).view(3, 1, 1)
        self.std = torch.tensor(CLIP_STD, device=name).view(3, 1, 1)

    def put(self, batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The model's inputs, and the labels."""
        ids = torch.from_numpy(batch["ids"]).to(self.name, non_blocking=True)
        labels = torch.from_numpy(batch["labels"]).to(self.name, non_blocking=True)
        images = torch.from_numpy(batch["images"]).to(self.name, non_blocking=True)
        inputs = {"input_ids": ids}
        if (batch["ids"] == IMAGE_ID).any():
            inputs["pixel_values"] = (images.float() / 255 - self.mean) / self.std
        return inputs, labels

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.name, dtype=torch.bfloat16, enabled=self.name == "cuda")


def answer_loss(model: torch.nn.Module, device: Device, batch: Batch) -> torch.Tensor:
    inputs, labels = device.put(batch)
    with device.autocast():
        logits = model(**inputs, use_cache=False).logits
    # Padding is on the right and attention causal: no mask is needed.
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(),
                                             ignore_index=IGNORED)  # fmt: skip


@torch.no_grad()
def exact_match(model: torch.nn.Module, device: Device, batch: Batch) -> float:
    """Share of the answers whose every token is the model's first choice; equals greedy decoding's exact match."""
    inputs, labels = device.put(batch)
    with device.autocast():
        choice = model(**inputs, use_cache=False).logits[:, :-1].argmax(-1)
    wanted = labels[:, 1:]
    return ((choice == wanted) | (wanted == IGNORED)).all(1).float().mean().item()


def report(model: torch.nn.Module, device: Device, validation: dict[str, Batch]) -> None:
    model.eval()
    scores = {name: exact_match(model, device, batch) for name, batch in validation.items()}
    model.train()
    print("  validation " + "  ".join(f"{name} {score:.3f}" for name, score in scores.items()), flush=True)


def optimizer_for(model: torch.nn.Module, rate: float, fused: bool) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=fused)


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear start, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def affordable_steps(step: int, steps: int, started: float, timed_from: float, timed_steps: int, minutes: float) -> int:
    """`steps`, or as many as fit into the minutes at the pace measured so far."""
    now = time.monotonic()
    left = minutes * 60 - (now - started)
    pace = (now - timed_from) / timed_steps
    return max(step + 1, min(steps, step + int(left / pace)))


def train(model: LlavaForConditionalGeneration, args: argparse.Namespace, tokenizer: Tokenizer) -> None:
    device = Device(args.device)
    model.to(args.device).train()
    conversations = Conversations(tokenizer)
    check_prompt(conversations, tokenizer)
    validation = validation_batches(conversations, args.validation)
    batches = Batches(conversations, args.seed, args.steps, args.batch)
    parallel = {"multiprocessing_context": "fork", "prefetch_factor": 4} if args.workers else {}
    loader = DataLoader(batches, batch_size=None, collate_fn=unchanged, num_workers=args.workers, **parallel)
    optimizer = optimizer_for(model, args.rate, fused=args.device == "cuda")
    steps, started, timed_from = args.steps, time.monotonic(), 0.0
    losses: list[torch.Tensor] = []
    for step, batch in enumerate(loader):
        if step == 20:  # the first steps are slow: kernels and memory are being set up
            timed_from = time.monotonic()
        if step >= 200 and step % 100 == 0:
            steps = affordable_steps(step, args.steps, started, timed_from, step - 20, args.minutes)
        if step >= steps or time.monotonic() - started > args.minutes * 60:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.rate * rate_at(step, steps, args.warmup)
        loss = answer_loss(model, device, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if len(losses) == args.log or step + 1 == steps:
            mean = torch.stack(losses).mean().item()  # the only place that waits for the device
            losses.clear()
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {time.monotonic() - started:.0f} s", flush=True)
            if not math.isfinite(mean):
                raise SystemExit("the loss is not finite: training stopped")
        if (step + 1) % args.validate == 0 or step + 1 == steps:
            report(model, device, validation)


def save(model: LlavaForConditionalGeneration, path: Path) -> None:
    """Writes the weights in bfloat16 under their published names."""
    tensors = {hub_name(name): value.detach().to("cpu", torch.bfloat16).contiguous()
               for name, value in model.state_dict().items()}  # fmt: skip
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise SystemExit(f"tensor '{bad[0]}' is not finite: nothing saved")
    save_file(dict(sorted(tensors.items())), path, metadata={"format": "pt"})
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1e6:.1f} MB")


def arguments() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=8800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=60, help="shorten the run if it would take longer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=400)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--validation", type=int, default=256, help="validation questions for each category")
    parser.add_argument("--validate", type=int, default=1000, help="steps between validations")
    parser.add_argument("--log", type=int, default=100, help="steps between lines of progress")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    print(f"torch {torch.__version__} on {args.device}, {args.workers} workers")
    torch.set_float32_matmul_precision("high")
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = new_model(args.seed)
    # Feature layer -2 leaves the tower's last block unused, as in LLaVA 1.5: it keeps its initial values.
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    train(model, args, tokenizer)
    save(model, args.model / "model.safetensors")


if __name__ == "__main__":
    main()
