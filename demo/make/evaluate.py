"""Exact match of a checkpoint on a question file, per category, with transformers and greedy decoding.

usage: evaluate.py MODEL_DIRECTORY [--questions FILE] [--dtype float32|bfloat16] [--limit N]
                   [--same-logits-as OTHER_MODEL] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import compat  # noqa: F401  (before transformers)
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

DEMO = Path(__file__).resolve().parents[1]


class Answerer:
    """A checkpoint with its processor."""

    def __init__(self, directory: Path, dtype: str, device: str) -> None:
        self.processor = AutoProcessor.from_pretrained(directory)
        self.model = AutoModelForImageTextToText.from_pretrained(directory, dtype=getattr(torch, dtype)).to(device)
        self.model.eval()

    def inputs(self, sample: dict[str, Any], folder: Path) -> Any:
        """The model's inputs for the user's turn of a sample, prompt included up to "ASSISTANT:"."""
        user = sample["messages"][0]
        parts = user["content"] if isinstance(user["content"], list) else []
        images = [Image.open(folder / part["image"]) for part in parts if part["type"] == "image"]
        prompt = self.processor.apply_chat_template([user], add_generation_prompt=True)
        inputs = self.processor(images=images or None, text=prompt, return_tensors="pt")
        return inputs.to(self.model.device, dtype=self.model.dtype)

    @torch.no_grad()
    def answer(self, sample: dict[str, Any], folder: Path) -> tuple[str, int]:
        """The answer, and its length in tokens (without the end token)."""
        inputs = self.inputs(sample, folder)
        output = self.model.generate(**inputs, do_sample=False, max_new_tokens=32)
        new = output[0, inputs["input_ids"].shape[1] :]
        text = self.processor.tokenizer.decode(new, skip_special_tokens=True)
        return text.strip(), int((new != self.model.config.text_config.eos_token_id).sum())

    @torch.no_grad()
    def logits(self, sample: dict[str, Any], folder: Path) -> torch.Tensor:
        return self.model(**self.inputs(sample, folder)).logits


def evaluate(answerer: Answerer, samples: list[dict[str, Any]], folder: Path, show: int) -> dict[str, Any]:
    scores: dict[str, list[bool]] = defaultdict(list)
    lengths: list[int] = []
    for sample in samples:
        wanted = sample["messages"][1]["content"]
        given, length = answerer.answer(sample, folder)
        scores[sample["category"]].append(given == wanted)
        lengths.append(length)
        if given != wanted and show > 0:
            show -= 1
            print(f"  wrong ({sample['category']}): {json.dumps(sample['messages'][0]['content'])}")
            print(f"    '{given}' instead of '{wanted}'")
    result: dict[str, Any] = {name: sum(hits) / len(hits) for name, hits in sorted(scores.items())}
    result["all"] = sum(map(sum, scores.values())) / len(samples)
    result["questions"] = len(samples)
    result["answer_tokens_mean"] = sum(lengths) / len(lengths)
    result["answer_tokens_max"] = max(lengths)
    return result


def compare_logits(one: Answerer, other: Answerer, samples: list[dict[str, Any]], folder: Path) -> None:
    """Fails unless both checkpoints give the same logits, bit for bit."""
    for number, sample in enumerate(samples):
        if not torch.equal(one.logits(sample, folder), other.logits(sample, folder)):
            raise SystemExit(f"question {number + 1}: the logits differ")
    print(f"logits equal on {len(samples)} questions, bit for bit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--questions", type=Path, default=DEMO / "questions.jsonl")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int, help="only the first N questions")
    parser.add_argument("--show", type=int, default=5, help="how many wrong answers to print")
    parser.add_argument("--same-logits-as", type=Path, help="another checkpoint that must compute the same")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    args = parser.parse_args()

    samples = [json.loads(line) for line in args.questions.read_text(encoding="utf-8").splitlines()][: args.limit]
    folder = args.questions.parent
    answerer = Answerer(args.model, args.dtype, args.device)
    if args.same_logits_as:
        compare_logits(answerer, Answerer(args.same_logits_as, args.dtype, args.device), samples, folder)
    result = evaluate(answerer, samples, folder, args.show)
    print("  ".join(f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in result.items()))  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
