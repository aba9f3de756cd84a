// What the classes of text models assume where config.json is silent.
#include <utility>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/families/config.h"

namespace visq {
namespace {

// clang-format off
using Biases = TextDefaults::Biases;
using Window = TextDefaults::Window;
constexpr TextDefaults kLlama{
    .vocab = 32000, .hidden = 4096, .intermediate = 11008, .layers = 32, .heads = 32, .kv_heads = {}, .head_dim = {},
    .max_positions = 2048, .norm_eps = 1e-6, .theta = 1e4, .biases = Biases::from_config, .bos = 1, .eos = 2};
constexpr TextDefaults kMistral{
    .vocab = 32000, .hidden = 4096, .intermediate = 14336, .layers = 32, .heads = 32, .kv_heads = 8, .head_dim = {},
    .max_positions = 131072, .norm_eps = 1e-6, .theta = 1e4, .window = Window::when_absent_4096, .bos = 1, .eos = 2};
constexpr TextDefaults kQwen2{
    .vocab = 151936, .hidden = 4096, .intermediate = 22016, .layers = 32, .heads = 32, .kv_heads = 32, .head_dim = {},
    .max_positions = 32768, .norm_eps = 1e-6, .theta = 1e4, .biases = Biases::qkv, .window = Window::when_enabled};
constexpr TextDefaults kQwen3{
    .vocab = 151936, .hidden = 4096, .intermediate = 22016, .layers = 32, .heads = 32, .kv_heads = 32, .head_dim = 128,
    .max_positions = 32768, .norm_eps = 1e-6, .theta = 1e4, .biases = Biases::attention,
    .window = Window::when_enabled, .qk_norm = true};
constexpr TextDefaults kQwen3Vl{
    .vocab = 151936, .hidden = 4096, .intermediate = 22016, .layers = 32, .heads = 32, .kv_heads = 32, .head_dim = 128,
    .max_positions = 128000, .norm_eps = 1e-6, .theta = 5e5, .biases = Biases::attention, .qk_norm = true,
    .mrope_interleaved = true, .bos = 151643, .eos = 151645};
constexpr TextDefaults kQwen3Moe{
    .vocab = 151936, .hidden = 2048, .intermediate = 6144, .layers = 24, .heads = 32, .kv_heads = 4, .head_dim = {},
    .max_positions = 32768, .norm_eps = 1e-6, .theta = 1e4, .biases = Biases::attention,
    .window = Window::when_enabled, .qk_norm = true,
    .experts = {.count = 128, .per_token = 8, .intermediate = 768}};
constexpr TextDefaults kQwen3VlMoe{
    .vocab = 151936, .hidden = 2048, .intermediate = 5632, .layers = 24, .heads = 16, .kv_heads = 16, .head_dim = {},
    .max_positions = 128000, .norm_eps = 1e-6, .theta = 5e5, .biases = Biases::attention, .qk_norm = true,
    .mrope_interleaved = true, .experts = {.count = 60, .per_token = 4, .intermediate = 1408, .always_normalized = true},
    .bos = 151643, .eos = 151645};
constexpr TextDefaults kLlama4{
    .vocab = 202048, .hidden = 5120, .intermediate = 8192, .layers = 48, .heads = 40, .kv_heads = 8, .head_dim = 128,
    .max_positions = 131072, .norm_eps = 1e-5, .theta = 5e5, .biases = Biases::attention, .bos = 1, .eos = 2};
constexpr TextDefaults kPhi3{
    .vocab = 32064, .hidden = 3072, .intermediate = 8192, .layers = 32, .heads = 32, .kv_heads = {}, .head_dim = {},
    .max_positions = 4096, .norm_eps = 1e-5, .theta = 1e4, .window = Window::when_given, .fused = true,
    .bos = 1, .eos = 32000};
constexpr TextDefaults kPhi4{
    .vocab = 200064, .hidden = 3072, .intermediate = 8192, .layers = 32, .heads = 32, .kv_heads = 8, .head_dim = {},
    .max_positions = 131072, .norm_eps = 1e-5, .theta = 1e4, .window = Window::when_given, .fused = true,
    .bos = 199999, .eos = 199999};
constexpr TextDefaults kGemma{
    .vocab = 256000, .hidden = 3072, .intermediate = 24576, .layers = 28, .heads = 16, .kv_heads = 16, .head_dim = 256,
    .max_positions = 8192, .norm_eps = 1e-6, .theta = 1e4, .activation = "gelu_pytorch_tanh", .norm_plus_one = true,
    .scaled_embedding = true, .bos = 2, .eos = 1};
constexpr TextDefaults kGemma2{
    .vocab = 256000, .hidden = 2304, .intermediate = 9216, .layers = 26, .heads = 8, .kv_heads = 4, .head_dim = 256,
    .max_positions = 8192, .norm_eps = 1e-6, .theta = 1e4, .window = Window::pattern, .window_pattern = 2,
    .activation = "gelu_pytorch_tanh", .norm_plus_one = true, .sandwich_norms = true, .scaled_embedding = true,
    .query_scalar = 256, .score_softcap = 50, .logit_softcap = 30, .bos = 2, .eos = 1};
constexpr TextDefaults kGemma3{
    .vocab = 262208, .hidden = 2304, .intermediate = 9216, .layers = 26, .heads = 8, .kv_heads = 4, .head_dim = 256,
    .max_positions = 131072, .norm_eps = 1e-6, .theta = 1e6, .window = Window::pattern, .window_pattern = 6,
    .activation = "gelu_pytorch_tanh", .norm_plus_one = true, .sandwich_norms = true, .qk_norm = true,
    .scaled_embedding = true, .query_scalar = 256, .local_theta = 1e4, .bos = 2, .eos = 1};

constexpr std::pair<const char*, const TextDefaults*> kTextModels[] = {
    {"llama", &kLlama}, {"mistral", &kMistral}, {"qwen2", &kQwen2}, {"qwen3", &kQwen3},
    {"qwen3_vl_text", &kQwen3Vl}, {"qwen3_moe", &kQwen3Moe}, {"qwen3_vl_moe_text", &kQwen3VlMoe}, {"llama4_text", &kLlama4}, {"phi3", &kPhi3}, {"phi4_multimodal", &kPhi4}, {"gemma", &kGemma},
    {"gemma2", &kGemma2}, {"gemma3_text", &kGemma3}};
// clang-format on

}  // namespace

const TextDefaults& text_defaults(const std::string& model_type, const std::string& origin) {
  std::string supported;
  for (const auto& [name, defaults] : kTextModels) {
    if (model_type == name) return *defaults;
    supported += visq::format("{}{}", supported.empty() ? "" : ", ", name);
  }
  fail("{}: text model '{}' is not supported ({} are)", origin, model_type, supported);
}

}  // namespace visq
