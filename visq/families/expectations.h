// A list of the tensors that config.json asks for.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace visq {

struct ExpectedTensor {
  std::string name;  ///< canonical
  std::vector<int64_t> shape;
  bool leading_ones = false;  ///< the tensor may have leading extents of one besides
};

class Expectations {
 public:
  void tensor(const std::string& name, std::vector<int64_t> shape) {
    tensors_.push_back({name, std::move(shape)});
  }
  /// A tensor that some classes store with leading extents of one: [1, 1, channels].
  void loose_tensor(const std::string& name, std::vector<int64_t> shape) {
    tensors_.push_back({name, std::move(shape), /*leading_ones=*/true});
  }
  void linear(const std::string& module, int64_t out, int64_t in, bool bias) {
    tensor(module + ".weight", {out, in});
    if (bias) tensor(module + ".bias", {out});
  }
  void norm(const std::string& module, int64_t channels, bool bias) {
    tensor(module + ".weight", {channels});
    if (bias) tensor(module + ".bias", {channels});
  }
  std::vector<ExpectedTensor> take() { return std::move(tensors_); }

 private:
  std::vector<ExpectedTensor> tensors_;
};

}  // namespace visq
