"""Videos as frames against transformers: ids, pixels, positions, every stage and greedy generation."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
from test_forward import NEW_TOKENS, TOLERANCE, difference, reference, run_probe  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "qwen2_vl": (toy.make_qwen_vl, "2"),
    "qwen2_5_vl": (toy.make_qwen_vl, "2.5"),
    "qwen3_vl": (toy.make_qwen3_vl,),
    "qwen3_vl_moe": (toy.make_qwen3_vl, True),
}


def text(value):
    return {"type": "text", "text": value}


def image(width, height):
    return {"type": "image", "size": (width, height)}


def video(width, height, frames, **fps):
    return {"type": "video", "size": (width, height), "count": frames, **fps}


CONVERSATIONS = [
    [{"role": "user", "content": [video(200, 140, 4, fps=3.0), text("What happens?")]}],
    [{"role": "user", "content": [image(90, 61), text("And"), video(57, 90, 3, fps=2), text("then?")]}],
    [{"role": "user", "content": [video(90, 61, 2), video(112, 112, 5, fps=0.7), image(57, 90), text("Which of these is red?")]}],
    [{"role": "user", "content": [text("What is two and two?")]}],
    [
        {"role": "user", "content": [text("How long?"), video(60, 60, 12, fps=1)]},  # time goes further than rows and columns
        {"role": "assistant", "content": [text("A circle.")]},
        {"role": "user", "content": [text("And here?"), video(31, 70, 2, fps=29.97)]},
    ],
]


def written(part, folder, stem):
    """The part as samples.jsonl has it, its pictures in the folder."""
    if part["type"] == "text":
        return part
    names = [f"{stem}_{index}.png" for index in range(part.get("count", 1))]
    for index, name in enumerate(names):
        toy.write_image(folder / name, *part["size"], seed=7 * len(stem) + index)
    if part["type"] == "image":
        return {"type": "image", "image": names[0]}
    return {"type": "video", "frames": names} | ({"fps": part["fps"]} if "fps" in part else {})


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    conversations = [
        [{"role": message["role"], "content": [written(part, folder, f"{i}_{j}_{k}") for k, part in enumerate(message["content"])]}
         for j, message in enumerate(messages)]
        for i, messages in enumerate(CONVERSATIONS)
    ]  # fmt: skip
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path, conversations


def pictures_of(conversation):
    return [part for message in conversation for part in message["content"] if part["type"] != "text"]


def encode(processor, conversation, folder):
    """The frames are those that the model shall see: none is left out."""
    messages = [{"role": message["role"], "content": [part if part["type"] == "text" else {"type": part["type"]} for part in message["content"]]}
                for message in conversation]  # fmt: skip
    load = lambda name: Image.open(folder / name).convert("RGB")  # noqa: E731
    parts = pictures_of(conversation)
    images = [load(part["image"]) for part in parts if part["type"] == "image"]
    videos = [part for part in parts if part["type"] == "video"]
    counts = [len(part["frames"]) for part in videos]
    metadata = [dict(total_num_frames=count, fps=part.get("fps"), frames_indices=list(range(count))) for count, part in zip(counts, videos)]
    with_videos = dict(videos=[[load(name) for name in part["frames"]] for part in videos], video_metadata=metadata,
                       do_sample_frames=False) if videos else {}  # fmt: skip
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=[prompt], images=images or None, return_tensors="pt", **with_videos)


def in_order(conversation, inputs, of_images, of_videos, divisor=1):
    """Rows of all images, rows of all videos → those of each picture, as the conversation has them."""
    def split(rows, grids):
        return iter([] if rows is None else rows.split([int(grid.prod()) // divisor for grid in grids]))

    images, videos = split(of_images, inputs.get("image_grid_thw")), split(of_videos, inputs.get("video_grid_thw"))
    return [next(images if part["type"] == "image" else videos) for part in pictures_of(conversation)]


def stages(model, inputs, conversation, index):
    """As test_forward.reference, with what goes into the merger and comes out of the tower in the conversation's order."""
    before, after = [], []
    tower = model.model.visual
    hooks = [tower.merger.register_forward_pre_hook(lambda _, args: before.append(args[0].clone())),
             tower.register_forward_hook(lambda _, __, output: after.append(output.pooler_output.clone()))]  # fmt: skip
    expected = reference(model, inputs, index)
    for hook in hooks:
        hook.remove()
    expected = {name: tensor for name, tensor in expected.items() if not name.startswith(("tower", "features"))}
    if not before:
        return expected
    # The model runs its images before its videos.
    kinds = [kind for kind in ("image", "video") if f"{kind}_grid_thw" in inputs]
    for name, calls, divisor in (("tower", before, 1), ("features", after, tower.spatial_merge_size**2)):
        rows = dict(zip(kinds, calls, strict=True))
        expected[f"{name}.{index}"] = torch.cat(in_order(conversation, inputs, rows.get("image"), rows.get("video"), divisor))
    return expected


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_equals_transformers(kind, samples, probe, tmp_path):
    data, conversations = samples
    make, *arguments = KINDS[kind]
    made = make(*arguments)
    model = made[0]
    folder = toy.save(tmp_path / "model", made, "A")
    out = tmp_path / "out.safetensors"
    computed, lines = run_probe(probe("forward"), folder, data, out, "fp32", "--generate", str(NEW_TOKENS))
    generated = [[int(token) for token in line.split()] for line in lines]

    processor = AutoProcessor.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    worst = {}
    for index, conversation in enumerate(conversations):
        inputs = encode(processor, conversation, data.parent)
        assert computed[f"ids.{index}"].tolist() == inputs["input_ids"][0].tolist()
        pixels = in_order(conversation, inputs, inputs.get("pixel_values"), inputs.get("pixel_values_videos"))
        for place, tensor in enumerate(pixels):
            assert torch.equal(computed[f"pixels.{index}.{place}"], tensor), (index, place)
        positions, _ = model.model.get_rope_index(**{key: value for key, value in inputs.items() if "pixel" not in key})
        assert computed[f"positions.{index}"].tolist() == positions[:, 0].tolist()
        for name, tensor in stages(model, inputs, conversation, index).items():
            stage = name.rsplit(".", 1)[0]
            worst[stage] = max(worst.get(stage, 0.0), difference(computed[name], tensor))
        answer = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert generated[index] == answer[0, inputs["input_ids"].shape[1] :].tolist()
    print({stage: f"{value:.1e}" for stage, value in worst.items()})
    assert {"tower", "features", "merged", "layer.2", "logits"} <= worst.keys()
    assert max(worst.values()) <= TOLERANCE, worst
