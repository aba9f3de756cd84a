"""Writes questions.jsonl, calibration.jsonl and images/.

usage: data.py DEMO_DIRECTORY [--seed N]
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

import world

QUESTIONS = {"shape": 43, "colour": 43, "position": 44, "count": 44, "digit": 43, "caption": 43, "fact": 40}  # 300
CALIBRATION = {"shape": 18, "colour": 18, "position": 18, "count": 18, "digit": 18, "caption": 22, "fact": 16}  # 128
TRAINING_SAMPLE = 20_000  # training images that the written ones are compared with

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


def digest(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.convert("RGB").tobytes()).hexdigest()


def message_line(question: world.Question, image: str | None) -> dict[str, Any]:
    content: Any = question.text
    if image:
        content = [{"type": "image", "image": image}, {"type": "text", "text": question.text}]
    return {
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": question.answer}],
        "category": question.category,
    }


def picture(rng: random.Random, split: str, category: str) -> tuple[world.Scene, world.Question]:
    while True:
        scene = world.draw_scene(rng, split)
        if question := world.ask(rng, scene, category):
            return scene, question


class Writer:
    """Writes one split and remembers the pixels of its images."""

    def __init__(self, directory: Path, split: str, seed: int, facts: list[world.Question]) -> None:
        self.directory, self.split, self.facts = directory, split, facts
        self.rng = random.Random(f"{split}-{seed}")
        self.digests: set[str] = set()

    def store(self, scene: world.Scene, number: int) -> str | None:
        """Saves a new image; None when one with the same pixels exists already."""
        image = world.render(scene, world.draw_size(self.rng))
        name, options = world.draw_format(self.rng)
        data = world.encode(image, name, options)
        pixels = {digest(image), digest(Image.open(io.BytesIO(data)))}
        if pixels & self.digests:
            return None
        self.digests |= pixels
        path = f"images/{self.split[0]}{number:04d}.{SUFFIXES[name]}"
        (self.directory / path).write_bytes(data)
        return path

    def line(self, category: str, number: int) -> dict[str, Any]:
        if category == "fact":
            return message_line(self.facts.pop(), None)
        while True:
            scene, question = picture(self.rng, self.split, category)
            if path := self.store(scene, number):
                return message_line(question, path)

    def write(self, counts: dict[str, int]) -> None:
        categories = [category for category, count in counts.items() for _ in range(count)]
        self.rng.shuffle(categories)
        lines = [json.dumps(self.line(category, i), ensure_ascii=False) for i, category in enumerate(categories, 1)]
        (self.directory / f"{self.split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def shuffled_facts(seed: int) -> list[world.Question]:
    """The facts in random order, but sums (more than half of them) no oftener than every other time."""
    facts = world.facts()
    random.Random(f"facts-{seed}").shuffle(facts)
    sums = [fact for fact in facts if any(c.isdigit() for c in fact.text)]
    others = [fact for fact in facts if fact not in sums]
    return [fact for pair in zip(sums, others) for fact in pair]


def training_digests(seed: int) -> set[str]:
    rng = random.Random(f"train-{seed}-check")
    scenes = (world.draw_scene(rng, "train") for _ in range(TRAINING_SAMPLE))
    return {digest(world.render(scene, world.draw_size(rng))) for scene in scenes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shutil.rmtree(args.directory / "images", ignore_errors=True)
    (args.directory / "images").mkdir(parents=True)

    facts = shuffled_facts(args.seed)
    cut = QUESTIONS["fact"]
    asked = Writer(args.directory, "questions", args.seed, facts[:cut])
    asked.write(QUESTIONS)
    calibration = Writer(args.directory, "calibration", args.seed, facts[cut : cut + CALIBRATION["fact"]])
    calibration.write(CALIBRATION)

    shared = asked.digests & calibration.digests or (asked.digests | calibration.digests) & training_digests(args.seed)
    if shared:
        raise SystemExit(f"{len(shared)} images occur in two splits")
    files = list((args.directory / "images").iterdir())
    print(f"{len(files)} images, {sum(f.stat().st_size for f in files) / 1000:.0f} kB; no image in two splits")


if __name__ == "__main__":
    main()
