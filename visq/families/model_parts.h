// What a Model loads when it is first needed. Private to model*.cpp.
#pragma once
#include <mutex>
#include <optional>

#include "visq/families/model.h"

namespace visq {

/// A value made once, by whichever thread comes first.
template <typename T>
class Lazy {
 public:
  template <typename Make>
  const T& get(Make&& make) {
    const std::lock_guard lock(mutex_);
    if (!value_) value_.emplace(make());
    return *value_;
  }

 private:
  std::mutex mutex_;
  std::optional<T> value_;
};

struct Model::Parts {
  Lazy<Tokenizer> tokenizer;
  Lazy<ImageProcessor> processor;
  Lazy<ModelSpec> prompt;  // the spec with the prompt style that the tokenizer allows
  Lazy<nn::VisionTower> tower;
  Lazy<nn::Projector> projector;
  Lazy<nn::Norm> final_norm;
  Lazy<nn::Linear> head;
};

}  // namespace visq
