"""VILA 1.5 and NVILA, which transformers does not have: against its SigLIP, CLIP, InternViT, Llama and Qwen2, and the rest in plain
PyTorch, written from spec/models-llava-vila-qwen.md §6."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPImageProcessorPil

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import images_reference  # noqa: E402
import vila_models  # noqa: E402
from test_forward import TOLERANCE, difference, run_probe, with_pixels  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = -200
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions."
)


def joined_cells(grid, side):
    """[h, w, C] → [h / side, w / side, side² C], zeros at the right and bottom; channels in the order (dy, dx, c)"""
    height, width, channels = grid.shape
    grid = F.pad(grid, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = grid.shape[0] // side, grid.shape[1] // side
    cells = grid.reshape(rows, side, columns, side, channels).transpose(1, 2)
    return cells.reshape(rows, columns, side * side * channels)


def project(vila, grid):
    """The map of one tile or block → its rows, and their map."""
    if not vila.projector_type.startswith("mlp_downsample"):
        rows = vila.projector(grid.reshape(-1, grid.shape[-1]))
        return rows, rows.view(*grid.shape[:2], -1)
    cells = joined_cells(grid, 3 if "3x3" in vila.projector_type else 2)
    projected = vila.projector(cells)
    by_column = vila.projector_type == "mlp_downsample" and vila.legacy and "mm_projector_token_order" not in vila.root
    return (projected.transpose(0, 1) if by_column else projected).flatten(0, 1), projected


def mosaic(maps, rows, columns):
    lines = [torch.cat([maps[row * columns + column] for column in range(columns)], 1) for row in range(rows)]
    return torch.cat(lines)


def merged_scales(vila, maps, blocks):
    """→ one map of all scales' channels, and its blocks (rows, columns)"""
    pixels = sorted(int(scale) for scale in vila.root["s2_scales"].split(","))
    if blocks == (0, 0):
        return torch.cat([maps[0]] * len(pixels), -1), (1, 1)
    side = vila.root.get("s2_max_split_size", pixels[0])
    grids = [(scale // side,) * 2 for scale in pixels[:-1]] + [blocks]
    large, first = [], 0
    for rows, columns in grids:
        large.append(mosaic(maps[first : first + rows * columns], rows, columns))
        first += rows * columns
    assert first == len(maps)
    index = vila.root.get("s2_resize_output_to_scale_idx", 0)
    size = large[index].shape[:2]
    same = [F.interpolate(scale.permute(2, 0, 1)[None], size=size, mode="area")[0].permute(1, 2, 0) for scale in large]
    return torch.cat(same, -1), grids[index]


def clip_pixels(image, side):
    """Pillow's way: the short side resized, the middle cut."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return processor(image, return_tensors="pt")["pixel_values"][0]


def image_blocks(vila, image, one):
    """→ tower rows, and the runs of rows that each stand for one image token of the prompt"""
    mode, most = vila.root["image_aspect_ratio"], vila.root.get("max_tiles", 12)
    scales = tuple(int(scale) for scale in vila.root.get("s2_scales", "1").split(","))
    normalized = images_reference.intern_normalized if vila.intern else images_reference.vila_normalized
    s2 = vila.root.get("s2", False)
    if mode is None:  # CLIP's own way, once at the size of the largest scale
        processed = clip_pixels(image, max(scales))
        pixels, blocks = images_reference.cut_scales(processed, sorted(scales), vila.side), (max(scales) // vila.side,) * 2
    else:
        pixels, blocks = images_reference.vila(image, mode, vila.side, most=most, scales=scales, one=one, s2=s2, normalized=normalized)
    pixels = pixels if pixels.dim() == 4 else pixels[None]
    states = vila.tower(pixels, output_hidden_states=True).hidden_states[vila.root.get("mm_vision_select_layer", -2)]
    if vila.root.get("mm_vision_select_feature") == "patch":
        states = states[:, 1:]
    side = vila.side // vila.patch
    maps = states.reshape(len(states), side, side, -1)
    end = []
    if not vila.legacy:
        (line_break,) = vila.tokenizer.encode("\n").ids
        end = [vila.decoder.get_input_embeddings().weight[line_break][None]]
    if "s2_scales" not in vila.root:
        return states, [torch.cat([project(vila, tile)[0], *end]) for tile in maps]
    whole, (rows, columns) = merged_scales(vila, maps, blocks)
    if s2:
        return states, [torch.cat([project(vila, whole)[0], *end])]
    cut = [project(vila, whole[r * side : r * side + side, c * side : c * side + side])[1] for r in range(rows) for c in range(columns)]
    return states, [torch.cat([mosaic(cut, rows, columns).flatten(0, 1), *end])]


# What opens and closes each turn.
LEGACY = {"system": ("", " "), "user": ("USER: ", " "), "assistant": ("ASSISTANT: ", "</s>")}
HERMES = {role: (f"<|im_start|>{role}\n", "<|im_end|>") for role in LEGACY}


def prompt_of(vila, conversation, placeholders):
    """@param placeholders  the text of each image"""
    placeholders, text = iter(placeholders), ""
    system = "" if conversation[0]["role"] == "system" else None
    if vila.intern:
        text = "<|im_start|>system\nAnswer the questions.<|im_end|>" if system is None else ""
    elif vila.legacy:
        text = VICUNA + " " if system is None else ""
    elif system is None:
        text = "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
    for message in conversation:
        role, images, content = message["role"], "", ""
        for part in message["content"]:
            if part["type"] == "text":
                content += part["text"]
            elif vila.legacy:
                images += next(placeholders) + "\n"
            else:
                content += next(placeholders)
        if vila.legacy:
            open, close = (HERMES if vila.intern else LEGACY)[role]
            text += open + images + content + close
        else:
            text += f"<|im_start|>{role}\n{content}<|im_end|>\n"
    return text + ("ASSISTANT:" if vila.legacy and not vila.intern else "<|im_start|>assistant\n")


def token_ids(vila, tokenizer, text):
    """With IMAGE once an image. VILA 1.5 tokenizes what stands between images by itself, NVILA the whole."""
    if vila.legacy:
        first, *others = [tokenizer(piece).input_ids for piece in text.split("<image>")]
        return first + [id for other in others for id in [IMAGE, *other[1:]]]
    return [IMAGE if id == tokenizer.convert_tokens_to_ids("<image>") else id for id in tokenizer(text).input_ids]


def row_counts(vila, grid, one):
    """Rows of each placeholder of an image. @param grid  (rows, columns) of its tiles"""
    side, cell = vila.side // vila.patch, 3 if "3x3" in vila.projector_type else 2 if "downsample" in vila.projector_type else 1
    end = 0 if vila.legacy else 1
    joined = lambda patches: math.ceil(patches / cell)  # noqa: E731
    if vila.root.get("s2"):
        scale = sorted(int(scale) for scale in vila.root["s2_scales"].split(","))[vila.root.get("s2_resize_output_to_scale_idx", 0)]
        return [joined(side * scale // vila.root["s2_max_split_size"]) ** 2 + end]
    tiles = max(1, grid[0] * grid[1])
    if vila.root.get("dynamic_s2"):
        assert vila.root["s2_resize_output_to_scale_idx"] == -1
        return [tiles * joined(side) ** 2 + end]
    dynamic = vila.root["image_aspect_ratio"] == "dynamic" and one
    return [joined(side) ** 2 + end] * (tiles + (dynamic and tiles > 1))


def expected_ids(vila, tokenizer, conversation, grids):
    """@param grids  of each image, as images_reference.vila() cuts it"""
    counts = [row_counts(vila, grid, len(grids) == 1) for grid in grids]
    tiled = vila.root["image_aspect_ratio"] == "dynamic" and len(grids) == 1
    placeholders = ["<image>\n" * len(own) if tiled else "<image>" for own in counts]
    remaining = iter([count for own in counts for count in own])
    ids = token_ids(vila, tokenizer, prompt_of(vila, conversation, placeholders))
    return [id for token in ids for id in ([IMAGE] * next(remaining) if token == IMAGE else [token])]


@torch.no_grad()
def reference(vila, tokenizer, conversation, folder, index):
    pictures = [part["image"] for message in with_pixels(conversation, folder) for part in message["content"] if part["type"] == "image"]
    tiled = vila.root["image_aspect_ratio"] == "dynamic" and len(pictures) == 1
    towers, blocks, placeholders = [], [], []
    for picture in pictures:
        states, own = image_blocks(vila, picture, len(pictures) == 1)
        towers.append(states.flatten(0, 1))
        blocks += own
        placeholders.append("<image>\n" * len(own) if tiled else "<image>")
    features, ids, rows = iter(blocks), [], []
    for id in token_ids(vila, tokenizer, prompt_of(vila, conversation, placeholders)):
        block = next(features) if id == IMAGE else vila.decoder.get_input_embeddings()(torch.tensor([id]))
        ids += [id] * len(block)
        rows.append(block)
    merged, seen = torch.cat(rows), {}
    last = vila.decoder.model.norm.register_forward_pre_hook(lambda _, args: seen.update(last=args[0][0].clone()))
    output = vila.decoder(inputs_embeds=merged[None], output_hidden_states=True)
    last.remove()
    states = [state[0] for state in output.hidden_states[1:-1]] + [seen["last"]]
    expected = {"merged": merged, "logits": output.logits[0], **{f"layer.{layer}": state for layer, state in enumerate(states)}}
    if pictures:
        expected |= {"tower": torch.cat(towers), "features": torch.cat(blocks)}
    return ids, {f"{name}.{index}": tensor for name, tensor in expected.items()}


@pytest.mark.parametrize("kind", vila_models.KINDS)
def test_every_stage_equals_the_reference(kind, probe, tmp_path):
    vila = vila_models.Vila(kind)
    folder = vila.save(tmp_path / "model")
    data, conversations = toy.write_samples(tmp_path)
    # Grids of tiles of other shapes: a strip, a tower and a square.
    for place, (width, height) in enumerate([(420, 60), (50, 380), (100, 100)]):
        toy.write_image(tmp_path / f"shape{place}.png", width, height, 10 + place)
        content = [{"type": "image", "image": f"shape{place}.png"}, {"type": "text", "text": "What is it?"}]
        conversations.append([{"role": "user", "content": content}])
    data.write_text("".join(f'{{"messages": {vila_models.json.dumps(messages)}}}\n' for messages in conversations))
    computed, _ = run_probe(probe("forward"), folder, data, tmp_path / "out.safetensors", "fp32")
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
    worst, shapes = {}, set()
    for index, conversation in enumerate(conversations):
        ids, expected = reference(vila, tokenizer, conversation, tmp_path, index)
        assert computed[f"ids.{index}"].tolist() == ids
        for name, tensor in expected.items():
            stage = name.rsplit(".", 1)[0]
            worst[stage] = max(worst.get(stage, 0.0), difference(computed[name], tensor))
        shapes.add(expected.get(f"tower.{index}", torch.empty(0)).shape)
    print({stage: f"{value:.1e}" for stage, value in worst.items()})
    assert max(worst.values()) <= TOLERANCE, worst
    if (vila.root["image_aspect_ratio"] or "").startswith("dynamic"):
        assert len(shapes) >= 4  # no image, one tile, and several grids


def test_the_two_orders_of_tokens_differ(probe, tmp_path):
    data, _ = toy.write_samples(tmp_path)
    features = {}
    for kind in ("vila1.5", "vila1.5-rows"):
        folder = vila_models.Vila(kind).save(tmp_path / kind)
        computed, _ = run_probe(probe("forward"), folder, data, tmp_path / f"{kind}.safetensors", "fp32")
        features[kind] = computed["features.1"].view(3, 3, -1)
    torch.testing.assert_close(features["vila1.5"], features["vila1.5-rows"].transpose(0, 1))
    assert not torch.allclose(features["vila1.5"], features["vila1.5-rows"], atol=1e-3)
