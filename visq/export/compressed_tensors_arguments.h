// The arguments with which compressed-tensors describes a scheme (QuantizationArgs, spec/export.md §5.1), and
// the formats that go with them.
#pragma once
#include "visq/core/json.h"
#include "visq/quant/scheme.h"

namespace visq::compressed_tensors {

/// How the linears of a scheme are stored; nullptr: the layout does not hold it.
const char* format_of(const Scheme& scheme);
/// What the package takes a group for that does not say its format.
std::string implied_format(const Scheme& scheme);
/// Whether weights of the scheme can be in such a format; how they are packed the tensors say.
/// @throws Error naming the format
void check_format(const std::string& format, const Scheme& scheme, const std::string& origin);

/// "weights" and "input_activations" of a group. Only keys that old readers know, as they refuse others.
Json weight_arguments(const Scheme& scheme);
Json input_arguments(const Scheme& scheme);
/// 8 bits of floating point, static.
Json kv_arguments(bool per_head);

/// Codec, block and inputs; the solver is left as it is.
/// @param inputs  null: as they are
/// @throws Error naming what visq does not read, or what contradicts itself
Scheme read_scheme(const Json& weights, const Json& inputs, const std::string& origin);
/// @throws Error unless they are those of kv_arguments()
struct KvArguments {
  bool per_head;
};
KvArguments read_kv_arguments(const Json& arguments, const std::string& origin);

}  // namespace visq::compressed_tensors
