// What differs between model families, as data: switches, tensor names, prompt, image tokens. No arithmetic.
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/samples.h"
#include "visq/nn/decoder.h"
#include "visq/nn/projector.h"
#include "visq/nn/vision.h"

namespace visq {

/// One rule from a checkpoint's spelling to the canonical one (the tree of transformers 5.x).
struct NameRule {
  std::string from, to;             ///< prefixes; with a leading dot: parts anywhere in the name (the first)
  std::vector<std::string> unless;  ///< the rule does not apply to names that start with one of these
};

/// vicuna: LLaVA 1.5; chatml: Qwen2.5-VL; chatml_images_first: LLaVA with a Qwen2 text model;
/// paligemma: images, BOS, text, line break; llama_3_2: Llama 3.2 Vision; llama_4: Llama 4; vicuna_v1,
/// llama_3, hermes_2: VILA 1.5; nvila: NVILA; llava_v1, mistral, qwen_1_5 (and llama_3, hermes_2): LLaVA in
/// its authors' format; template_only: the checkpoint has to have a chat template.
enum class PromptStyle {
  vicuna,
  chatml,
  chatml_images_first,
  paligemma,
  llama_3_2,
  llama_4,
  vicuna_v1,
  llama_3,
  hermes_2,
  nvila,
  llava_v1,
  mistral,
  qwen_1_5,
  template_only
};

/// Stands for a feature row among the token ids where no tokenizer makes it: as in the references of VILA and
/// LLaVA. Should the tokenizer know "<image>", its own id may lie behind the last row of the embedding.
inline constexpr int64_t kUntokenizedImage = -200;

/// Tensor names of a tower below its prefix; a name is empty where the tower has no such part.
struct TowerNames {
  std::string patch = {};                                 ///< module of the patch convolution
  bool patch_is_linear = false;                           ///< its weight is a matrix
  std::string class_embedding = {}, position_table = {};  ///< tensors
  std::string pre_norm = {}, post_norm = {};              ///< modules
  std::string blocks = {};                                ///< "encoder.layers.": blocks are at blocks + "N."
  // Modules below a block.
  std::string norm1 = {}, norm2 = {}, q = {}, k = {}, v = {}, qkv = {}, q_norm = {}, k_norm = {}, out = {};
  std::string fc1 = {}, fc2 = {}, gate = {}, up = {}, down = {};
  std::string scale1 = {}, scale2 = {};         ///< tensors below a block
  std::string pixel_mean = {}, pixel_std = {};  ///< tensors
  // Of joined tiles.
  std::string position_gate = {}, tile_positions = {};  ///< tensors
  std::string pre_tile = {}, post_tile = {};            ///< modules
  std::string global_blocks = {};                       ///< as `blocks`; gates are scale1, scale2
};

/// How the feature rows of an image become a run of tokens, and the text around them.
/// Source: spec/models-llava-vila-qwen.md §4–6, §10; spec/models-phi-gemma.md §1.3, §3.5, §4.4, §5.
struct ImageLayout {
  enum class Kind {
    flat,    ///< rows as they are, tile after tile
    anyres,  ///< whole image; then the mosaic of its tiles, padding cut away, a learned row behind each line
    hd,      ///< the mosaic with such rows, a learned separator, then the whole image with such rows (Phi)
    row_breaks,  ///< flat, with a token of text behind each line of the grid (Pixtral)
    tagged,      ///< tile after tile, then the whole image, text around each (Idefics3, Llama 4)
    scales,      ///< tiles of several scales, stacked on the channels before the projector (VILA)
    cross,       ///< not in the sequence: cross layers read the rows, one token stands for the image (Mllama)
  };
  Kind kind = Kind::flat;

  // Learned rows (canonical tensor names).
  std::string row_end, separator;
  int64_t max_tiles = 0;         ///< anyres: larger mosaics shrink to about so many tiles' rows; 0: never
  std::vector<int64_t> scales;   ///< scales: tiles a side of each but the last, which has rows × columns
  int64_t reference_scale = -1;  ///< scales: the one whose grid the others take; −1: the last
  bool joined_map =
      false;  ///< scales: the projector reads the map of an image whole, not tile by tile (VILA s2)
  /// Token whose embedding ends the rows of a tile (flat) or of the image (scales): NVILA's line break.
  std::string end_text;           ///< as text; empty: there is none
  std::optional<int64_t> end_id;  ///< filled in by Model, which knows the tokenizer

  // Text. `before` and `after` stand around the whole run, which is one image token a feature row.
  std::string before, after;
  std::string tile_end;               ///< flat: behind each tile of an image that comes in tiles
  std::string row_break, last_break;  ///< row_breaks: behind each line but the last, behind the last
  /// tagged: before each tile ("{row}" and "{column}" count from 1) and before the whole image.
  std::string tile_tag, global_tag;
  /// tagged: between the tiles of a line of them, behind each line, behind the last line's.
  std::string tile_gap, line_end, tiles_end;
};

/// A low-rank adapter that lies beside the decoder linears, as "X.lora_A.NAME.weight" and "X.lora_B.NAME…".
struct AdapterSpec {
  std::string name;
  int64_t rank = 0;
  double scale = 1;         ///< of what it adds
  bool for_images = false;  ///< samples with images run with it; no others do
};

/// How a video becomes tokens: each of its steps in time is an image to the tower, and the steps follow one
/// another. Source: spec/models-llava-vila-qwen.md §7–9 and transformers 5.23, which says what that leaves
/// out.
struct VideoLayout {
  std::optional<int64_t> token_id;  ///< absent: the family reads no videos
  std::string token;                ///< text of the token that stands for a feature row; the placeholder too
  std::string processor;            ///< class of the video processor where no file names one
  /// Text around the tokens of each step, "{seconds}" being the middle of its frames. With such a text the
  /// positions of each step are those of an image; without it they count on in time.
  std::string step_before, step_after;
  int64_t tokens_per_second = 0;  ///< positions in time a second; 0: one a step
};

struct ModelSpec {
  std::string family;        ///< "llava", "qwen2_5_vl"
  std::string architecture;  ///< as in config.json
  nn::DecoderSpec decoder;
  nn::VisionSpec vision;
  nn::ProjectorSpec projector;         ///< on the rows of each tile or image
  nn::ProjectorSpec packed_projector;  ///< on the rows that ImageLayout has put in order; often empty
  nn::ProjectorSpec deepstack;         ///< on each of vision.deepstack_blocks

  // Tensor names, canonical spelling.
  std::vector<NameRule> name_rules;
  std::string decoder_prefix;    ///< "model.language_model."; layers are at decoder_prefix + "layers.N."
  std::string tower_prefix;      ///< "model.vision_tower.", "model.visual."
  std::string projector_prefix;  ///< "model.multi_modal_projector.", "model.visual.merger."
  std::string deepstack_prefix;  ///< projectors are at deepstack_prefix + "N."
  TowerNames tower_names;
  /// Where the tower is when it is not in the files, for the error that says so; "": it has to be.
  std::string tower_elsewhere;
  std::vector<AdapterSpec> adapters;
  /// Globs (canonical) of tensors that are only copied, never used.
  std::vector<std::string> ignored_patterns;

  /// What preprocessor_config.json would say, of checkpoints that have none; null: it is there.
  Json image_processor;

  // Image tokens and prompt.
  int64_t image_token_id = 0;
  std::string image_token;  ///< text of the token that stands for a feature row, e.g. "<image>"
  bool tokenizer_knows_image =
      false;  ///< image_token_id is the tokenizer's, filled in by Model (Nemotron-VL)
  /// Text of one image in the prompt, where it is not image_token; "{n}" counts the images from 1.
  std::string image_placeholder;
  bool split_at_images = false;      ///< text between images is tokenized piece by piece (Phi-3-vision, VILA)
  bool single_bos = false;           ///< of those pieces only the first has a BOS
  bool template_reads_text = false;  ///< chat templates read content as one text with placeholders (Phi)
  std::string behind_placeholder;    ///< in that text, behind each of them
  bool whole_prompt = false;         ///< the tokenizer adds no special tokens to it: they are all there
  bool own_prompt = false;  ///< the reference has `prompt` in its code and reads no template (VILA 1.5)
  ImageLayout layout;
  VideoLayout video;
  /// Prompter falls back to vicuna where chatml_images_first meets a tokenizer without <|im_start|>, and
  /// takes llama_3 or hermes_2 where vicuna_v1 or llava_v1 meets one with <|start_header_id|> or
  /// <|im_start|>.
  PromptStyle prompt = PromptStyle::vicuna;
  bool mrope = false;            ///< positions from image grids
  std::vector<int64_t> eos_ids;  ///< from config.json; Model prefers those of generation_config.json
  std::optional<int64_t> bos_id;

  /// Subtrees that stay unquantized, as module names in every naming generation (for exclude lists).
  std::vector<std::string> unquantized_roots;
};

/// What the forward pass of a family is held against in the tests, at every stage.
enum class Reference {
  transformers,  ///< the class of transformers
  rewritten,  ///< plain PyTorch written from the family's description; its tower and decoder, transformers'
};
const char* reference_text(Reference reference);

struct Family {
  std::string name;
  std::vector<std::string> architectures;  ///< config.json: architectures[0]
  std::string checkpoints;  ///< for people: "LLaVA 1.5 (llama, mistral, qwen2 text; CLIP, SigLIP towers)"
  ModelSpec (*describe)(const Json& config, const std::string& origin);
  Reference reference = Reference::transformers;
};

/// All families, in the order they are listed to users.
const std::vector<Family>& families();
/// Why an architecture that looks like one of theirs is not supported; "": nothing is known.
std::string unsupported_reason(const std::string& architecture);
/// The family of config.json's architecture; nullptr: visq knows none.
const Family* find_family(const Json& config, const std::string& origin);
/// "LlavaForConditionalGeneration (LLaVA 1.5 …), …", for errors.
std::string supported_architectures();
/// @throws Error listing what is supported when config.json's architecture is not
ModelSpec describe_model(const Json& config, const std::string& origin);

}  // namespace visq
