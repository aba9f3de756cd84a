// Bytes of bf16 weight that the codecs read a second, absolute maxima included: the CPU kernels against the
// ATen expressions that other devices run, on one thread.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <functional>
#include <string>

#include "visq/quant/codec.h"
#include "visq/quant/codec_backend.h"

namespace visq {
namespace {

constexpr int64_t kSize = 4096;  // a square linear of a 7B model

at::Tensor weight() {
  at::manual_seed(1);
  static const at::Tensor w = at::randn({kSize, kSize}).mul(0.02).to(at::kBFloat16);
  return w;
}

at::Tensor activation() { return weight().slice(0, 0, 512).contiguous(); }  // 512 tokens

void report(benchmark::State& state, const at::Tensor& input) {
  state.counters["GB"] = benchmark::Counter(static_cast<double>(input.nbytes()) / 1e9,
                                            benchmark::Counter::kIsIterationInvariantRate);
}

template <class Body>
void measure(benchmark::State& state, const at::Tensor& input, const Body& body) {
  at::set_num_threads(1);
  for (auto _ : state) benchmark::DoNotOptimize(body(input));
  report(state, input);
}

void register_pair(const std::string& name,
                   std::function<at::Tensor(const CodecBackend&, const at::Tensor&)> body,
                   at::Tensor input = weight()) {
  const auto add = [&](const char* backend_name, const CodecBackend& backend) {
    benchmark::RegisterBenchmark((name + "/" + backend_name).c_str(), [=, &backend](benchmark::State& state) {
      measure(state, input, [&](const at::Tensor& x) { return body(backend, x); });
    })->Unit(benchmark::kMillisecond);
  };
  add("kernels", cpu_codecs());
  add("aten", aten_codecs());
}

void register_all() {
  const float scale = 0.1f / 448;
  register_pair("pack_fp8", [](const CodecBackend& codecs, const at::Tensor& w) {
    return codecs.encode_fp8(w, scale_for(codecs.absolute_maximum(w), kFp8Max, at::kFloat));
  });
  register_pair("pack_int8", [](const CodecBackend& codecs, const at::Tensor& w) {
    return codecs.encode_int(w, kSize, 127, at::kFloat).codes;
  });
  register_pair("pack_int4", [](const CodecBackend& codecs, const at::Tensor& w) {
    return codecs.encode_int(w, 128, 7, at::kFloat).codes;
  });
  register_pair("pack_nvfp4", [](const CodecBackend& codecs, const at::Tensor& w) {
    return codecs.encode_nvfp4(w, kNvfp4Block, codecs.absolute_maximum(w) / kNvfp4Max).codes;
  });
  for (const Codec codec : {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8, Codec::mxint8})
    register_pair(
        std::string("pack_") + codec_name(codec),
        [=](const CodecBackend& codecs, const at::Tensor& w) { return codecs.encode_mx(w, codec).codes; });
  register_pair(
      "simulate_fp8",
      [=](const CodecBackend& codecs, const at::Tensor& x) { return codecs.simulate_fp8(x, scale); },
      activation());
  register_pair(
      "simulate_int8",
      [=](const CodecBackend& codecs, const at::Tensor& x) { return codecs.simulate_int8(x, scale); },
      activation());
  register_pair(
      "simulate_nvfp4",
      [=](const CodecBackend& codecs, const at::Tensor& x) { return codecs.simulate_nvfp4(x, scale); },
      activation());
  register_pair(
      "simulate_mxfp8",
      [](const CodecBackend& codecs, const at::Tensor& x) { return codecs.simulate_mx(x, Codec::mxfp8); },
      activation());
  for (const PackedTensor& packed : {pack_fp8(weight()), pack_int4(weight()), pack_nvfp4(weight())})
    register_pair(
        std::string("dequantize_") + codec_name(packed.codec),
        [packed](const CodecBackend& codecs, const at::Tensor& codes) {
          if (packed.codec == Codec::fp8_e4m3) return codecs.decode_fp8(codes, packed.scale, at::kBFloat16);
          if (packed.codec == Codec::int4) return codecs.decode_int(codes, packed.scale, at::kBFloat16);
          return codecs.decode_nvfp4(codes, packed.scale, packed.scale_2, at::kBFloat16);
        },
        packed.codes);
  const at::Tensor int4 = pack_int4(weight()).codes;
  register_pair(
      "int4_to_row_pairs", [](const CodecBackend& c, const at::Tensor& x) { return c.int4_to_row_pairs(x); },
      int4);
  register_pair(
      "int4_to_words", [](const CodecBackend& c, const at::Tensor& x) { return c.int4_to_words(x); }, int4);
  register_pair(
      "int4_from_words", [](const CodecBackend& c, const at::Tensor& x) { return c.int4_from_words(x); },
      int4_to_words(int4));
}

}  // namespace
}  // namespace visq

int main(int argc, char** argv) {
  // Outputs come from memory that is already mapped, as in a run over many layers: fresh pages cost more than
  // the codecs.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  benchmark::Initialize(&argc, argv);
  at::set_num_threads(1);
  visq::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
