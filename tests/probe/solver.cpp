// probe_solver IN.safetensors OUT.safetensors: AWQ, GPTQ, scale searches and low-rank factors of one linear;
// IN holds "weight" [out, in] and "x" [tokens, in].
#include "visq/quant/solver.h"

#include <ATen/ATen.h>

#include "visq/core/format.h"
#include "visq/io/safetensors.h"
#include "visq/quant/codec.h"
#include "visq/quant/gptq.h"
#include "visq/quant/low_rank.h"
#include "visq/quant/scale_search.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    visq::print(stderr, "usage: probe_solver IN.safetensors OUT.safetensors\n");
    return 2;
  }
  const visq::SafetensorsFile in(argv[1]);
  const at::Tensor weight = in.tensor(*in.find("weight")).to(at::kFloat);
  const at::Tensor x = in.tensor(*in.find("x")).to(at::kFloat);
  const auto fake_quantize = [](const at::Tensor& w) { return visq::dequantize(visq::pack_int4(w, 128)); };
  const visq::SmoothingDecision decision =
      visq::solve_awq({weight}, x.abs().mean(0), at::mm(x.t(), x), 128, fake_quantize);
  const at::Tensor gram = at::mm(x.t(), x);
  const visq::PackedTensor int4 = visq::pack_int4(weight, 128), nvfp4 = visq::pack_nvfp4(weight);
  const visq::PackedTensor solved =
      visq::gptq(weight, visq::gptq_factor(gram, {.activation_order = false}), int4);
  const auto searched = [&](visq::ScaleSearch search) {
    return visq::search_scales(search, nvfp4, weight, gram, at::kFloat).scale;
  };
  const visq::LowRank plain = visq::nearest_low_rank(weight, {}, 32, at::kBFloat16);
  const visq::LowRank whitened = visq::nearest_low_rank(weight, gram, 32, at::kBFloat16);
  visq::write_safetensors(argv[2], {{"alpha", at::tensor({decision.alpha}, at::kDouble)},
                                    {"losses", at::tensor(decision.losses, at::kDouble)},
                                    {"scale", decision.scale},
                                    {"int4.codes", int4.codes},
                                    {"int4.scale", int4.scale},
                                    {"gptq.codes", solved.codes},
                                    {"svd.a", plain.a},
                                    {"svd.b", plain.b},
                                    {"whitened.a", whitened.a},
                                    {"whitened.b", whitened.b},
                                    {"nvfp4.scale_2", nvfp4.scale_2},
                                    {"mse.scale", searched(visq::ScaleSearch::mse)},
                                    {"output_error.scale", searched(visq::ScaleSearch::output_error)}});
  return 0;
}
