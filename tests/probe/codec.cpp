// probe_codec IN.safetensors OUT.safetensors: packs every matrix of IN with every codec, for
// tests/parity/test_codecs.py; calibrates every KV cache with [tokens, heads, channels] of IN, and reads them
// back from it, for test_kv_caches.py.
#include "visq/quant/codec.h"

#include <ATen/ATen.h>

#include <cstdio>
#include <exception>

#include "visq/io/safetensors.h"
#include "visq/quant/kv_format.h"

namespace {

using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

void pack_all(const std::string& name, const at::Tensor& weight, Tensors& out) {
  const auto add = [&](const std::string& format, const visq::PackedTensor& packed) {
    out.emplace_back(name + "." + format + ".codes", packed.codes);
    out.emplace_back(name + "." + format + ".scale", packed.scale);
    if (packed.scale_2.defined()) out.emplace_back(name + "." + format + ".scale_2", packed.scale_2);
    out.emplace_back(name + "." + format + ".deq", visq::dequantize(packed));
  };
  add("fp8", visq::pack_fp8(weight));
  add("fp8_rows", visq::pack_fp8_rows(weight));
  add("fp8_blocks", visq::pack_fp8_blocks(weight));
  const visq::PackedTensor int8 = visq::pack_int8(weight);
  add("int8", int8);
  out.emplace_back(name + ".int8.words", visq::int8_to_words(int8.codes));
  add("nvfp4", visq::pack_nvfp4(weight));
  add("w4a8_nvfp4_fp8", visq::pack_nvfp4(weight, std::nullopt, 32, visq::kFp8Max));
  for (const visq::Codec codec :
       {visq::Codec::mxfp4, visq::Codec::mxfp6, visq::Codec::mxfp8, visq::Codec::mxint8}) {
    add(visq::codec_name(codec), visq::pack_mx(weight, codec));
    out.emplace_back(name + "." + visq::codec_name(codec) + ".simulated", visq::simulate_mx(weight, codec));
  }
  const visq::PackedTensor int4 = visq::pack_int4(weight, 128);
  add("int4", int4);
  out.emplace_back(name + ".int4.bytes", visq::int4_to_row_pairs(int4.codes));
  out.emplace_back(name + ".int4.words", visq::int4_to_words(int4.codes));
  const visq::PackedTensor asym = visq::pack_int4_asym(weight, 128);
  add("int4_asym", asym);
  out.emplace_back(name + ".int4_asym.zero_point", asym.zero_point);
  const visq::PackedTensor nf4 = visq::pack_nf4(weight);
  add("nf4", nf4);
  out.emplace_back(name + ".nf4.mean", nf4.zero_point);
}

void cache_all(const std::string& name, const at::Tensor& states, Tensors& out) {
  visq::KvCacheStatistics seen;
  seen.add(states, states);
  for (const visq::KvFormat& format : visq::kv_formats())
    for (const bool keys : {true, false}) {
      const std::string prefix = name + "." + format.name + (keys ? ".key." : ".value.");
      const visq::KvStatistics& statistics = keys && format.rotated ? seen.rotated_keys : seen.keys;
      const visq::KvScale scale = visq::solve_kv_scale(format, statistics, states.scalar_type());
      out.emplace_back(prefix + "scale", scale.scale);
      if (scale.bias.defined()) out.emplace_back(prefix + "bias", scale.bias);
      out.emplace_back(prefix + "read", keys ? visq::simulate_keys(format, states, scale)
                                             : visq::simulate_values(format, states, scale));
    }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: probe_codec IN.safetensors OUT.safetensors\n");
    return 2;
  }
  const visq::SafetensorsFile in(argv[1]);
  Tensors out = {{"nf4_levels", visq::nf4_levels()}, {"nf4_scale_levels", visq::nf4_scale_levels()}};
  for (const visq::TensorInfo& info : in.tensors())
    if (info.shape.size() == 2)
      pack_all(info.name, in.tensor(info), out);
    else if (info.shape.size() == 3)
      cache_all(info.name, in.tensor(info), out);
  visq::write_safetensors(argv[2], out);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
