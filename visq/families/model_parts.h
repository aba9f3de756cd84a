// What a Model loads when it is first needed. Private to model*.cpp.
#pragma once
#include <mutex>
#include <optional>

#include "visq/families/image_layout.h"
#include "visq/families/model.h"
#include "visq/families/prompter.h"

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

/// Weights of everything between pixels and embeddings.
struct VisionParts {
  nn::VisionTower tower;
  nn::Projector projector, packed_projector;
  std::vector<nn::Projector> deepstack;
  LearnedRows learned;
};

struct Model::Parts {
  Lazy<Tokenizer> tokenizer;
  Lazy<ImageProcessor> processor;
  Lazy<VideoProcessor> video_processor;
  Lazy<Prompter> prompter;
  Lazy<VisionParts> vision;
  Lazy<nn::Norm> final_norm;
  Lazy<nn::Linear> head;
};

}  // namespace visq
