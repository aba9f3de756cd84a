// The one vision block and the tower built on it: CLIP, SigLIP (also with patches of any aspect ratio),
// InternViT, the towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, Pixtral, Mllama, Llama 4, RADIO.
// Source: spec/models-llava-vila-qwen.md §1.2, §7–9; spec/models-phi-gemma.md §0.2, §3.5, §5.2, §5.3, §5.5,
// §5.6.
#pragma once
#include <cstdint>
#include <vector>

#include "visq/nn/ops.h"
#include "visq/nn/vision_windows.h"

namespace visq::nn {

/// What the image processor hands over.
enum class VisionInput {
  tiles,    ///< squares of image_size pixels, one or several an image
  images,   ///< whole images, sides multiples of the patch
  patches,  ///< rows of flattened patches, cell by cell (cells of merge × merge patches)
};

/// Learned positions, added to the patches.
enum class VisionPositions {
  none,
  table,      ///< one row a token: [patches (+ 1 for the class token), width]
  stretched,  ///< the side of the table is spread over the patches that show the image (phi-gemma §3.5)
  resampled,  ///< the square table is interpolated to the patches of the image (llava-vila-qwen §9)
  gated,      ///< 1 − tanh(gate) times a table, tanh(gate) times one of the tile's own (Mllama)
};

/// Rotation of queries and keys by row and column.
enum class VisionRope {
  none,
  shared,       ///< rows and columns turn with the same frequencies, in fp32 (Qwen)
  alternating,  ///< rows with the even, columns with the odd ones, in the compute dtype (Pixtral)
  neighbours,   ///< columns, then rows, both from 1, neighbouring channels together, in fp32 (Llama 4)
};

struct VisionSpec {
  int64_t layers = 0, width = 0, mlp_width = 0, heads = 0, patch = 14, temporal_patch = 1, image_size = 0;
  double norm_eps = 1e-5;
  Activation activation = Activation::quick_gelu;
  VisionInput input = VisionInput::tiles;
  bool normalizes = false;  ///< the tower itself normalizes the pixels, which are 0 … 1 (RADIO)
  bool class_token = false, pre_norm = false, patch_bias = false;
  int64_t class_tokens = 1;  ///< rows of what `class_token` names: RADIO has several, and registers
  bool rms_norm = false, fused_qkv = false, gated_mlp = false;
  bool qkv_bias = true, out_bias = true, mlp_bias = true;
  bool qk_norm = false;  ///< RMS over all heads together, before they are split
  double qk_norm_eps = 1e-6;
  bool layer_scale = false;  ///< each branch times a vector
  bool post_norm = false;    ///< layer norm behind the last block; only with empty `feature_layers`
  VisionPositions positions = VisionPositions::table;
  int64_t position_rows = 0;  ///< of a resampled table; the other tables have a row a token
  VisionRope rope = VisionRope::none;
  double rope_theta = 10000;
  /// Which hidden states feed the projector: index as Hugging Face counts (0: encoder input, −2: last but
  /// one), several are concatenated on the channel axis. Empty: the output of the last block.
  std::vector<int64_t> feature_layers;
  bool class_token_last = false;  ///< it stands behind the patches
  bool drop_class_token = false;  ///< leaves out the place where it stands, or they stand
  /// Patches a side of the cells that `input == patches` comes in.
  int64_t merge = 1;
  /// >0: blocks outside `full_blocks` attend inside windows of `window` pixels (Qwen2.5-VL).
  int64_t window = 0;
  std::vector<int64_t> full_blocks;
  /// Blocks whose output goes to the text model by itself (Qwen3-VL), ascending.
  std::vector<int64_t> deepstack_blocks;
  /// Blocks whose outputs are features too: behind the channels of the last state, channel by channel
  /// (channel c of the k-th of n at c·n + k; Mllama), ascending.
  std::vector<int64_t> tapped_blocks;
  /// >0: an image is so many tiles, the missing ones zero, and all of them one sequence (Mllama).
  int64_t joined_tiles = 0;
  std::vector<Grid> tilings;  ///< rows × columns that an image is cut into; row i + 1 of the tile tables
  int64_t global_layers = 0;  ///< gated blocks behind post_norm
};

struct VisionBlock {
  Norm norm1, norm2;
  Linear q, k, v;  ///< or:
  Linear qkv;      ///< fused rows [Q | K | V]
  Norm q_norm, k_norm;
  Linear out;
  Linear fc1, fc2;            ///< plain MLP, or:
  Linear gate, up, down;      ///< gated MLP
  at::Tensor scale1, scale2;  ///< [width] or [1]: of the attention, of the MLP; undefined: none
};

/// One vector for each tile of each tiling, added tanh(gate) times.
struct TileTable {
  at::Tensor table, gate;  ///< [tilings + 1, joined_tiles · width], [1]
};

/// Everything the tower holds; undefined where the spec has no such part.
struct VisionTower {
  at::Tensor pixel_mean, pixel_std;  ///< fp32 [3]
  at::Tensor patch_weight;           ///< [width, 3·temporal·patch·patch], flattened channel-major
  at::Tensor patch_bias, class_embedding, position_table;  ///< [width], [class_tokens, width], [rows, width]
  Norm pre_norm, post_norm;
  std::vector<VisionBlock> blocks;
  // Of joined tiles:
  at::Tensor position_gate, tile_positions;  ///< [1], [tilings + 1, joined_tiles · tokens · width]
  TileTable pre_tile, post_tile;             ///< before the class token, behind post_norm
  std::vector<VisionBlock> global_blocks;
};

/// Tiles and images laid end to end; each is a sequence of its own to the attention.
struct TowerInput {
  at::Tensor patches;       ///< [Σ h·w, 3·t·p·p]
  std::vector<Grid> grids;  ///< of each tile or image
  at::Tensor mask;          ///< bool [Σ h·w]: true where a patch shows the image; undefined: everywhere
  std::vector<Grid> tilings = {};  ///< with joined_tiles: of each image, rows × columns of its tiles
};

struct TowerRows {
  at::Tensor rows;  ///< [Σ tokens, width · (|feature_layers| + |tapped_blocks|)]
  /// int64: where `rows`, after the projector has merged cells, stand in window order,
  /// merged_rows.index_select(0, restore) brings them back; undefined: they are in order.
  at::Tensor restore;
  std::vector<at::Tensor> deepstack;  ///< [Σ tokens, width] of each of deepstack_blocks
};

/// Tokens of one tile or image: a row a patch, and those of the class token if it is kept.
int64_t tower_tokens(const VisionSpec& spec, const Grid& grid);

/// [n, 3, h, w] → [n · (h/p) · (w/p), 3·p·p], patches row by row, each flattened channel-major; a remainder
/// at the right and bottom is left out, as a convolution with stride p does.
at::Tensor cut_patches(const at::Tensor& pixels, int64_t patch);

/// Patches → features. Patches that show nothing of the image are seen by none, but have rows; of joined
/// tiles, those of missing ones are seen by all but one another.
/// @throws Error for a feature layer or a tiling that does not exist
TowerRows run_tower(const VisionSpec& spec, const VisionTower& tower, const TowerInput& input);

}  // namespace visq::nn
