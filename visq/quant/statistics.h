// What calibration keeps of a linear's input: small sums and maxima, per modality, that add up over batches.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace visq {

/// What is kept; each holds what those before it hold. rows: samples of the tokens themselves, for errors
/// that no sum knows, such as those of rounded inputs. gram: Σ x xᵀ.
enum class Detail { magnitudes, rows, gram };

/// Tokens of each modality that a sample keeps.
inline constexpr int64_t kSampledTokens = 128;

/// The tokens with the lowest tickets. A token has its ticket wherever and whenever it is seen, so samples
/// add up too.
struct TokenSample {
  at::Tensor rows;     ///< f32 [≤ kSampledTokens, channels]; undefined: none
  at::Tensor tickets;  ///< int64, ascending

  int64_t size() const { return rows.defined() ? rows.size(0) : 0; }
  /// @param x  [tokens, channels];  @param tickets  int64 [tokens]
  void add(const at::Tensor& x, const at::Tensor& tickets);
  void merge(const TokenSample& other);
};

/// Which rows of a batch are text tokens, which image tokens, and which of them are held out: kept from what
/// solvers fit to, so that their decisions can be tried on them.
class TokenRows {
 public:
  struct Part {
    at::Tensor rows;     ///< int64: row numbers
    at::Tensor tickets;  ///< int64, one a row
  };
  /// @param image     bool [rows];  @param held_out  bool [rows];  @param tickets  int64 [rows]
  TokenRows(at::Tensor image, at::Tensor held_out, at::Tensor tickets);
  /// All of one modality, none held out, tickets by number.
  static TokenRows alike(int64_t rows, bool image, at::Device device);
  /// Those of a batch that is made of these rows. @param rows  int64
  TokenRows of(const at::Tensor& rows) const;
  TokenRows without_held_out() const;  ///< the same, none held out

  const Part& part(bool image, bool held_out) const { return parts_[image ? 1 : 0][held_out ? 1 : 0]; }
  int64_t count(bool image) const { return part(image, false).rows.size(0) + part(image, true).rows.size(0); }

 private:
  at::Tensor image_, held_out_, tickets_;
  Part parts_[2][2];
};

/// Additive statistics of token rows x ∈ R^channels.
struct TokenStatistics {
  int64_t tokens = 0, held_out_tokens = 0;  ///< all of them; those held out, which gram and sample lack
  at::Tensor abs_max;                       ///< f32 [channels]: max |x|
  at::Tensor abs_sum;                       ///< f64 [channels]: Σ |x|
  at::Tensor gram;               ///< f32 [channels, channels]: Σ x xᵀ; undefined unless asked for
  TokenSample sample, held_out;  ///< empty unless asked for

  /// @param x  [tokens, channels]; nothing happens when it has no rows
  void add(const at::Tensor& x, const at::Tensor& tickets, bool held_out, Detail detail);
  void merge(const TokenStatistics& other);
  int64_t fitted_tokens() const { return tokens - held_out_tokens; }
};

/// How much a token of each modality counts in what solvers minimise.
struct ModalityWeights {
  double text = 1, image = 1;
  bool operator==(const ModalityWeights&) const = default;
};

/// How far answers move, in nats a token, where all that the layers add to the tokens of a modality is off by
/// its own power.
struct ModalitySensitivity {
  double text = 0, image = 0;
};

/// Tokens of a sample.
struct DrawnTokens {
  at::Tensor rows;    ///< f32 [n, channels]; undefined: there are none
  at::Tensor counts;  ///< f32 [n]: how many tokens each stands for, times the weight of its modality
};

/// Statistics of one input group, text and image tokens apart.
class Statistics {
 public:
  explicit Statistics(Detail detail = Detail::magnitudes) : detail_(detail) {}
  /// Of tokens seen before.
  Statistics(TokenStatistics text, TokenStatistics image, Detail detail);

  /// @param x  [tokens, channels]
  void add(const at::Tensor& x, const TokenRows& rows);
  void merge(const Statistics& other);

  const TokenStatistics& text() const { return text_; }
  const TokenStatistics& image() const { return image_; }
  /// Both modalities together. The Gram matrix is summed on each call: a caller that needs it twice keeps it.
  int64_t tokens() const { return text_.tokens + image_.tokens; }
  int64_t fitted_tokens() const { return text_.fitted_tokens() + image_.fitted_tokens(); }
  at::Tensor abs_max() const;                                            ///< f32 [channels]
  at::Tensor mean_magnitude(const ModalityWeights& weights = {}) const;  ///< f32 [channels]
  at::Tensor gram(const ModalityWeights& weights = {}) const;            ///< f32 [channels, channels]
  /// Of what solvers fit to, or of what is held out.
  DrawnTokens draw(bool held_out, const ModalityWeights& weights = {}) const;

 private:
  Detail detail_;
  TokenStatistics text_, image_;
};

}  // namespace visq
