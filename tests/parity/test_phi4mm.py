"""Phi-4-multimodal in the layout of its own repository, whose code transformers 5 does not run: against the native class
with the adapter of images merged into the weights, which is what the adapter computes."""

import sys
from pathlib import Path

from transformers import AutoProcessor

sys.path.insert(0, str(Path(__file__).parent))
import forward_models as toy  # noqa: E402
from phi4mm_model import Phi4MM  # noqa: E402
from test_forward import NEW_TOKENS, TOLERANCE, difference, encode, reference, run_probe  # noqa: E402


def test_samples_with_images_run_with_the_vision_adapter_and_others_without(samples, probe, tmp_path):
    data, conversations = samples
    hub = Phi4MM()
    native = toy.save(tmp_path / "native", toy.make_phi4(), "A")
    processor = AutoProcessor.from_pretrained(native)
    out = tmp_path / "out.safetensors"
    computed, lines = run_probe(probe("forward"), hub.save(tmp_path / "hub"), data, out, "fp32", "--generate", str(NEW_TOKENS))
    models = {False: hub.native, True: hub.merged()}
    worst = 0.0
    for index, conversation in enumerate(conversations):
        pictured = any(part["type"] == "image" for message in conversation for part in message["content"])
        inputs = encode(processor, conversation, data.parent)
        assert computed[f"ids.{index}"].tolist() == inputs["input_ids"][0].tolist()
        for name, tensor in reference(models[pictured], inputs, index).items():
            worst = max(worst, difference(computed[name], tensor))
        if pictured:  # and the adapter does something
            other = reference(models[False], inputs, index)[f"logits.{index}"]
            assert (computed[f"logits.{index}"] - other).abs().max() > 100 * TOLERANCE * other.abs().max()
        model = models[pictured]
        model.generation_config.eos_token_id = None
        answer = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        generated = [int(token) for token in lines[index].split()]
        assert generated == answer[0, inputs["input_ids"].shape[1] :].tolist()
    assert worst <= TOLERANCE, worst
