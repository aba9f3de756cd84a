"""The peer: nvidia-modelopt on the same checkpoint and samples; prints seconds and peak memory as JSON.

    modelopt_ptq.py CHECKPOINT SAMPLES.jsonl FORMAT OUT [--device cuda] [--samples N]
"""
import argparse
import copy
import json
import pathlib
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "demo" / "make"))
import compat  # noqa: E402,F401  (before transformers)
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

CONFIGS = {"fp8": "FP8_DEFAULT_CFG", "int8_sq": "INT8_SMOOTHQUANT_CFG", "int4_awq": "INT4_AWQ_CFG", "w4a8_awq": "W4A8_AWQ_BETA_CFG",
           "nvfp4": "NVFP4_DEFAULT_CFG", "w4a16_nvfp4": "W4A16_NVFP4_CFG"}


def encode(processor, sample, folder):
    content, answer = sample["messages"][0]["content"], sample["messages"][-1]["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    images = [Image.open(folder / part["image"]) for part in parts if part["type"] == "image"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    if "Qwen" in type(processor).__name__:
        picture = "<|vision_start|><|image_pad|><|vision_end|>" * len(images)
        prompt = (f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{picture}{text}<|im_end|>\n"
                  f"<|im_start|>assistant\n{answer}<|im_end|>")
    else:
        prompt = "USER: " + "<image>\n" * len(images) + f"{text} ASSISTANT: {answer}</s>"
    return processor(images=images or None, text=prompt, return_tensors="pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("samples", type=pathlib.Path)
    parser.add_argument("format", choices=CONFIGS)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()

    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    start = time.perf_counter()
    model = AutoModelForImageTextToText.from_pretrained(arguments.checkpoint, dtype=torch.bfloat16).to(arguments.device).eval()
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    loaded = time.perf_counter()

    def forward_loop(m):
        for line in arguments.samples.read_text().splitlines()[: arguments.limit]:
            inputs = encode(processor, json.loads(line), arguments.samples.parent).to(arguments.device, dtype=torch.bfloat16)
            m(**inputs)

    config = copy.deepcopy(getattr(mtq, CONFIGS[arguments.format]))
    config["quant_cfg"].append({"quantizer_name": "*lm_head*", "enable": False})
    with torch.no_grad():
        mtq.quantize(model, config, forward_loop)
        if arguments.device == "cuda":
            torch.cuda.synchronize()
        quantized = time.perf_counter()
        export_hf_checkpoint(model, export_dir=arguments.out)
    done = time.perf_counter()
    print(json.dumps({"tool": "nvidia-modelopt", "format": arguments.format, "load_seconds": round(loaded - start, 2),
                      "quantize_seconds": round(quantized - loaded, 2), "export_seconds": round(done - quantized, 2),
                      "total_seconds": round(done - start, 2),
                      "peak_resident_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
                      "peak_device_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if arguments.device == "cuda" else 0}))


if __name__ == "__main__":
    main()
