// What differs between model families, as data: switches, tensor names, prompt, image tokens. No arithmetic.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/samples.h"
#include "visq/nn/decoder.h"
#include "visq/nn/vision.h"

namespace visq {

/// One prefix rule from a checkpoint's spelling to the canonical one (the tree of transformers 5.x).
struct NameRule {
  std::string from, to;             ///< prefixes
  std::vector<std::string> unless;  ///< the rule does not apply to names that start with one of these
};

/// vicuna: LLaVA 1.5; chatml: Qwen2.5-VL; chatml_images_first: LLaVA with a Qwen2 text model.
enum class PromptStyle { vicuna, chatml, chatml_images_first };

/// Tensor names of a tower below its prefix; a name is empty where the tower has no such part.
struct TowerNames {
  std::string patch;                            ///< module of the patch convolution
  std::string class_embedding, position_table;  ///< tensors
  std::string pre_norm;                         ///< module
  std::string blocks;                           ///< "encoder.layers.": blocks are at blocks + "N."
  // Modules below a block.
  std::string norm1, norm2, q, k, v, qkv, out, fc1, fc2, gate, up, down;
};

/// Modules of a projector below its prefix.
struct ProjectorNames {
  std::string norm, linear_1, linear_2;
};

struct ModelSpec {
  std::string family;        ///< "llava", "qwen2_5_vl"
  std::string architecture;  ///< as in config.json
  nn::DecoderSpec decoder;
  nn::VisionSpec vision;
  nn::ProjectorSpec projector;

  // Tensor names, canonical spelling.
  std::vector<NameRule> name_rules;
  std::string decoder_prefix;    ///< "model.language_model."; layers are at decoder_prefix + "layers.N."
  std::string tower_prefix;      ///< "model.vision_tower.", "model.visual."
  std::string projector_prefix;  ///< "model.multi_modal_projector.", "model.visual.merger."
  TowerNames tower_names;
  ProjectorNames projector_names;
  /// Globs (canonical) of tensors that are only copied, never used.
  std::vector<std::string> ignored_patterns;

  // Image tokens and prompt.
  int64_t image_token_id = 0;
  std::string image_token;  ///< text of one placeholder, e.g. "<image>"
  /// Model falls back to vicuna where chatml_images_first meets a tokenizer without <|im_start|>.
  PromptStyle prompt = PromptStyle::vicuna;
  bool mrope = false;            ///< positions from image grids
  std::vector<int64_t> eos_ids;  ///< from config.json; Model prefers those of generation_config.json
  std::optional<int64_t> bos_id;

  /// Subtrees that stay unquantized, as module names in every naming generation (for exclude lists).
  std::vector<std::string> unquantized_roots;
};

struct Family {
  std::string name;
  std::vector<std::string> architectures;  ///< config.json: architectures[0]
  std::string checkpoints;  ///< for people: "LLaVA 1.5 (llama, mistral, qwen2 text; CLIP, SigLIP towers)"
  ModelSpec (*describe)(const Json& config, const std::string& origin);
};

/// All families, in the order they are listed to users.
const std::vector<Family>& families();
/// @throws Error listing what is supported when config.json's architecture is not
ModelSpec describe_model(const Json& config, const std::string& origin);

}  // namespace visq
