"""Phi-3-vision, which transformers does not have: against its parts there (CLIP, Phi-3) and the rest in plain PyTorch."""

import json
import re
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import images_reference  # noqa: E402
from test_forward import TOLERANCE, difference, run_probe, with_pixels  # noqa: E402

CROPS = 4  # at most: mosaics of two rows and columns
IMAGE = 32044  # <|image|>
VISION = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=336, patch_size=14)


def random_tensor(*shape):
    return 0.12 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def make(folder, crops=CROPS):
    tokenizer, tokenizer_config = toy.fast_tokenizer(["<|user|>", "<|assistant|>", "<|end|>", "<|system|>", "<|image|>"])
    factors = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.0 + 0.5 * i for i in range(8)]}
    end = tokenizer.token_to_id("<|endoftext|>")
    text = dict({**toy.text_size(), "vocab_size": 32064}, max_position_embeddings=4096, original_max_position_embeddings=64, rms_norm_eps=1e-5,
                bos_token_id=end, eos_token_id=end, pad_token_id=end)  # fmt: skip
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, **factors}
    decoder = toy.randomize(Phi3ForCausalLM(Phi3Config(**text, rope_parameters=rope)))
    tower = toy.randomize(CLIPVisionModel(CLIPVisionConfig(**VISION)))
    hidden = text["hidden_size"]
    extra = {"glb_GN": random_tensor(1, 1, 256), "sub_GN": random_tensor(1, 1, 1, 256),
             "img_projection.0.weight": random_tensor(hidden, 256), "img_projection.0.bias": random_tensor(hidden),
             "img_projection.2.weight": random_tensor(hidden, hidden), "img_projection.2.bias": random_tensor(hidden)}  # fmt: skip
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    at = "model.vision_embed_tokens."
    tensors |= {f"{at}{name}": tensor for name, tensor in extra.items()}
    tensors |= {f"{at}img_processor.vision_model.{name.removeprefix('vision_model.')}": tensor.contiguous()
                for name, tensor in tower.state_dict().items() if not name.endswith("position_ids")}  # fmt: skip
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**text, "architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "img_processor": VISION,
              "rope_scaling": {"type": "su", **factors}}  # fmt: skip
    files = {"config.json": config, "tokenizer_config.json": tokenizer_config,
             "preprocessor_config.json": {"image_processor_type": "Phi3VImageProcessor", "num_crops": crops,
                                          "image_mean": toy.MEAN, "image_std": toy.STD}}  # fmt: skip
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
        "{{ '<|assistant|>\\n' }}"
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return decoder, tower, extra, tokenizer


def image_rows(tower, extra, image):
    """spec/models-phi-gemma.md §1.3: the mosaic with a learned column, a separator, the whole image with one."""
    tiles, (rows, columns) = images_reference.phi3(image, CROPS)
    states = tower(tiles, output_hidden_states=True).hidden_states[-2][:, 1:]
    merged = states.view(-1, 12, 2, 12, 2, 64).permute(0, 1, 3, 2, 4, 5).reshape(-1, 12, 12, 256)

    def with_column(grid):
        return torch.cat([grid, extra["sub_GN"][0, 0].expand(grid.shape[0], 1, 256)], 1).reshape(-1, 256)

    mosaic = merged[1:].view(rows, columns, 12, 12, 256).permute(0, 2, 1, 3, 4).reshape(rows * 12, columns * 12, 256)
    packed = torch.cat([with_column(mosaic), extra["glb_GN"][0], with_column(merged[0])])
    middle = torch.nn.functional.gelu(packed @ extra["img_projection.0.weight"].T + extra["img_projection.0.bias"])
    return middle @ extra["img_projection.2.weight"].T + extra["img_projection.2.bias"]


@torch.no_grad()
def test_logits_are_those_of_its_parts(probe, tmp_path):
    decoder, tower, extra, tokenizer = make(tmp_path / "model")
    data, conversations = toy.write_samples(tmp_path)
    computed, _ = run_probe(probe("forward"), tmp_path / "model", data, tmp_path / "out.safetensors", "fp32")
    for index, conversation in enumerate(conversations):
        images, text = [], ""
        for message in with_pixels(conversation, tmp_path):
            text += f"<|{message['role']}|>\n"
            for part in message["content"]:
                if part["type"] == "image":
                    images.append(image_rows(tower, extra, part["image"]))
                text += f"<|image_{len(images)}|>" if part["type"] == "image" else part["text"]
            text += "<|end|>\n"
        pieces = re.split(r"<\|image_\d+\|>", text + "<|assistant|>\n")
        ids, rows = [], []
        for place, piece in enumerate(pieces):
            own = tokenizer.encode(piece).ids
            ids += own
            rows.append(decoder.model.embed_tokens(torch.tensor(own, dtype=torch.long)))
            if place < len(images):
                ids += [IMAGE] * len(images[place])
                rows.append(images[place])
        assert computed[f"ids.{index}"].tolist() == ids
        expected = decoder(inputs_embeds=torch.cat(rows)[None]).logits[0]
        logits = computed[f"logits.{index}"]
        assert logits.shape == expected.shape
        assert difference(logits, expected) <= TOLERANCE
