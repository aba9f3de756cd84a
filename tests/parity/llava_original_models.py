"""The toy models of forward_models.py as LLaVA's authors save theirs: a flat configuration, other names, no image processor."""

import copy
import json

import forward_models as toy
from safetensors.torch import save_file

NAMES = [
    ("model.language_model.", "model."),
    ("model.vision_tower.", "model.vision_tower.vision_tower.vision_model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
]
ARCHITECTURES = {"llama": "LlavaLlamaForCausalLM", "mistral": "LlavaMistralForCausalLM", "qwen2": "LlavaQwenForCausalLM"}
PADDED = {"image_aspect_ratio": "pad", "mm_patch_merge_type": "flat"}
ANYRES = {"image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad"}

KINDS = {  # how the toy is made, and what the configuration says of images
    "llava-llama": ((toy.make_llava, "llama", "clip"), PADDED),
    "llava-mistral": ((toy.make_llava, "mistral", "clip"), {**PADDED, "image_aspect_ratio": "square"}),
    "llava_next-llama": ((toy.make_llava_next, "llama"), ANYRES),
    "llava_next-mistral": ((toy.make_llava_next, "mistral"), ANYRES),
    "llava_next-qwen2": ((toy.make_llava_next, "qwen2"), ANYRES),
    "llava_onevision": ((toy.make_llava_onevision,), {**ANYRES, "image_aspect_ratio": "anyres_max_2"}),
}


class OriginalLlava:
    def __init__(self, kind):
        (make, *arguments), self.images = KINDS[kind]
        self.model, self.tokenizer, _, self.files = make(*arguments)
        self.kind = kind
        self.text_type = self.model.config.text_config.model_type
        processor = self.files["preprocessor_config.json"]
        if kind == "llava_onevision":  # SigLIP's colours
            processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        if self.images["image_aspect_ratio"] == "pad":
            processor |= {"image_processor_type": "LlavaImageProcessor", "do_pad": True}

    def config(self):
        whole = copy.deepcopy(json.loads(self.model.config.to_json_string(use_diff=False)))
        toy.older_config(whole)
        text, vision = whole["text_config"], whole["vision_config"]
        root = {**text, **self.images, "architectures": [ARCHITECTURES[self.text_type]], "model_type": f"llava_{self.text_type}",
                "mm_vision_tower": "somebody/toy-tower", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
                "mm_vision_select_feature": "patch", "mm_hidden_size": 64, "mm_use_im_start_end": False, "vision_config": vision}  # fmt: skip
        if self.images["image_aspect_ratio"].startswith("anyres"):
            # [width, height] in the authors' code, [height, width] in transformers.
            root["image_grid_pinpoints"] = [pair[::-1] for pair in whole["image_grid_pinpoints"]]
        return root

    def save(self, folder):
        folder.mkdir()
        tied = self.model.config.tie_word_embeddings or self.model.config.text_config.tie_word_embeddings
        tensors = {toy.respell(name, NAMES): tensor.contiguous() for name, tensor in self.model.state_dict().items()
                   if not (tied and name == "lm_head.weight")}  # fmt: skip
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps(self.config(), indent=1))
        (folder / "tokenizer_config.json").write_text(json.dumps(self.files["tokenizer_config.json"]))
        return folder
