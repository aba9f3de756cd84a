"""Llama-Nemotron-VL, whose own code transformers does not run: against its Llama and its RADIO, and the rest in plain PyTorch, written
from spec/models-phi-gemma.md §5.6."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
import images_reference  # noqa: E402
from nemotron_model import PATCH, SIDE, TILES, NemotronVL  # noqa: E402
from test_forward import NEW_TOKENS, TOLERANCE, difference, run_probe, with_pixels  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = SIDE // PATCH


def corner_on_corner(embeddings):
    """C-RADIOv2 stretches the table of positions corner on corner; transformers has version 4, which does not."""

    def positions(dims, dtype):
        table = embeddings.position_embedding.view(1, embeddings.max_rows, embeddings.max_cols, -1).permute(0, 3, 1, 2)
        return F.interpolate(table, size=dims, mode="bilinear", align_corners=True).flatten(2).permute(0, 2, 1)

    embeddings._interpolate_position_embedding = positions


def image_rows(model, image):
    """→ tower rows, and the rows of all tiles behind the projector"""
    tiles, _ = images_reference.nemotron(image, SIDE, TILES, model.thumbnail)
    states = model.tower(tiles).features
    cells = states.view(len(states), GRID // 2, 2, GRID // 2, 2, -1)
    order = (0, 1, 3, 2, 4, 5) if model.version == "v2" else (0, 3, 1, 2, 4, 5)  # version 1: column by column
    merged = cells.permute(*order).reshape(len(states), (GRID // 2) ** 2, -1)
    return states.flatten(0, 1), model.projector(merged).flatten(0, 1)


@torch.no_grad()
def reference(model, conversation, folder, index):
    pictures = [part["image"] for message in with_pixels(conversation, folder) for part in message["content"] if part["type"] == "image"]
    images = [image_rows(model, picture) for picture in pictures]
    first, *texts = model.chat(conversation, "<image>\n").split("<image>")
    assert len(texts) == len(images)
    text = first + "".join("<img>" + "<image>" * len(rows) + "</img>" + text for (_, rows), text in zip(images, texts, strict=True))
    ids = model.tokenizer.encode(text, add_special_tokens=False).ids
    merged = model.decoder.get_input_embeddings()(torch.tensor(ids))
    seen, expected = {}, {}
    if images:
        features = torch.cat([rows for _, rows in images])
        merged[torch.tensor(ids) == model.tokenizer.token_to_id("<image>")] = features
        expected = {"tower": torch.cat([rows for rows, _ in images]), "features": features}
    last = model.decoder.model.norm.register_forward_pre_hook(lambda _, args: seen.update(last=args[0][0].clone()))
    output = model.decoder(inputs_embeds=merged[None], output_hidden_states=True)
    last.remove()
    states = [state[0] for state in output.hidden_states[1:-1]] + [seen["last"]]
    expected |= {"merged": merged, "logits": output.logits[0], **{f"layer.{layer}": state for layer, state in enumerate(states)}}
    model.decoder.generation_config.eos_token_id = None
    answer = model.decoder.generate(inputs_embeds=merged[None], max_new_tokens=NEW_TOKENS, do_sample=False)[0].tolist()
    return ids, answer, {f"{name}.{index}": tensor for name, tensor in expected.items()}


KINDS = {"v2": ("v2", 9), "v1": ("v1", GRID), "v2-no-thumbnail": ("v2", 2, False)}  # of the table: larger, equal, smaller


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_equals_the_reference(kind, probe, tmp_path):
    model = NemotronVL(*KINDS[kind])
    folder = model.save(tmp_path / "model")
    if model.table != GRID:
        corner_on_corner(model.tower.embeddings)
    data, conversations = toy.write_samples(tmp_path)
    for place, (width, height) in enumerate([(420, 60), (50, 380), (100, 100)]):
        toy.write_image(tmp_path / f"shape{place}.png", width, height, 10 + place)
        content = [{"type": "image", "image": f"shape{place}.png"}, {"type": "text", "text": "What is it?"}]
        conversations.append([{"role": "user", "content": content}])
    data.write_text("".join(f'{{"messages": {json.dumps(messages)}}}\n' for messages in conversations))
    computed, lines = run_probe(probe("forward"), folder, data, tmp_path / "out.safetensors", "fp32", "--generate", str(NEW_TOKENS))
    worst, shapes = {}, set()
    for index, conversation in enumerate(conversations):
        ids, answer, expected = reference(model, conversation, tmp_path, index)
        assert computed[f"ids.{index}"].tolist() == ids
        assert [int(token) for token in lines[index].split()] == answer
        for name, tensor in expected.items():
            stage = name.rsplit(".", 1)[0]
            worst[stage] = max(worst.get(stage, 0.0), difference(computed[name], tensor))
        shapes.add(expected.get(f"tower.{index}", torch.empty(0)).shape)
    print({stage: f"{value:.1e}" for stage, value in worst.items()})
    assert max(worst.values()) <= TOLERANCE, worst
    assert len(shapes) >= 4  # no image, and several grids
