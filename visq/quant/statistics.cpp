#include "visq/quant/statistics.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "visq/core/error.h"
#include "visq/core/tiled.h"

namespace visq {
namespace {

// Either may be undefined: a modality that has not occurred.
at::Tensor sum_of(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined()) return b;
  return b.defined() ? a + b : a;
}

at::Tensor scaled(const at::Tensor& sum, double weight) {
  return weight == 1 || !sum.defined() ? sum : sum * weight;
}

// Products of 16-bit values are exact in TF32, and tensor cores add them up in fp32: as good as fp32 units,
// many times faster.
class AllowTf32 {
 public:
  explicit AllowTf32(bool allow) : before_(at::globalContext().allowTF32CuBLAS()) {
    if (allow) at::globalContext().setAllowTF32CuBLAS(true);
  }
  ~AllowTf32() { at::globalContext().setAllowTF32CuBLAS(before_); }
  AllowTf32(const AllowTf32&) = delete;
  AllowTf32& operator=(const AllowTf32&) = delete;

 private:
  bool before_;
};

// Where the lowest tickets are, the first of equals first.
at::Tensor lowest(const at::Tensor& tickets) {
  const at::Tensor order = std::get<1>(at::sort(tickets, /*stable=*/true, /*dim=*/0, /*descending=*/false));
  return order.slice(0, 0, kSampledTokens);
}

// The rows that a part names, without a copy where those are all.
at::Tensor rows_of(const at::Tensor& x, const at::Tensor& rows) {
  return rows.size(0) == x.size(0) ? x : x.index_select(0, rows);
}

}  // namespace

void TokenSample::add(const at::Tensor& x, const at::Tensor& new_tickets) {
  const at::Tensor order = lowest(new_tickets);
  merge({x.index_select(0, order).to(at::kFloat), new_tickets.index_select(0, order)});
}

void TokenSample::merge(const TokenSample& other) {
  if (other.size() == 0) return;
  if (size() == 0) {
    *this = other;
    return;
  }
  const at::Tensor all = at::cat({tickets, other.tickets});
  const at::Tensor order = lowest(all);
  rows = at::cat({rows, other.rows}).index_select(0, order);
  tickets = all.index_select(0, order);
}

TokenRows::TokenRows(at::Tensor image, at::Tensor held_out, at::Tensor tickets)
    : image_(std::move(image)), held_out_(std::move(held_out)), tickets_(std::move(tickets)) {
  for (const bool of_images : {false, true})
    for (const bool of_held_out : {false, true}) {
      Part& part = parts_[of_images ? 1 : 0][of_held_out ? 1 : 0];
      part.rows = at::nonzero((image_ == of_images) & (held_out_ == of_held_out)).squeeze(1);
      part.tickets = tickets_.index_select(0, part.rows);
    }
}

TokenRows TokenRows::alike(int64_t rows, bool image, at::Device device) {
  const auto mask = at::TensorOptions(device).dtype(at::kBool);
  return {at::full({rows}, image, mask), at::zeros({rows}, mask), at::arange(rows, mask.dtype(at::kLong))};
}

TokenRows TokenRows::of(const at::Tensor& rows) const {
  return {image_.index_select(0, rows), held_out_.index_select(0, rows), tickets_.index_select(0, rows)};
}

TokenRows TokenRows::without_held_out() const { return {image_, at::zeros_like(held_out_), tickets_}; }

void TokenStatistics::add(const at::Tensor& x, const at::Tensor& tickets, bool is_held_out, Detail detail) {
  if (x.size(0) == 0) return;
  const at::Tensor rows = x.to(at::kFloat);
  const at::Tensor magnitude = rows.abs();
  TokenStatistics batch;
  batch.tokens = x.size(0);
  batch.held_out_tokens = is_held_out ? x.size(0) : 0;
  batch.abs_max = magnitude.amax(0);
  batch.abs_sum = magnitude.sum(0, /*keepdim=*/false, at::kDouble);
  if (detail == Detail::gram && !is_held_out) {
    const AllowTf32 exact(x.is_cuda() && at::isReducedFloatingType(x.scalar_type()));
    // In place: a second matrix of this size would double the peak.
    if (!gram.defined()) gram = at::zeros({x.size(1), x.size(1)}, rows.options());
    add_gram(gram, rows);
  }
  if (detail != Detail::magnitudes) (is_held_out ? held_out : sample).add(rows, tickets);
  merge(batch);
}

void TokenStatistics::merge(const TokenStatistics& other) {
  if (other.tokens == 0) return;
  abs_max = abs_max.defined() ? at::maximum(abs_max, other.abs_max) : other.abs_max;
  abs_sum = sum_of(abs_sum, other.abs_sum);
  gram = sum_of(gram, other.gram);
  sample.merge(other.sample);
  held_out.merge(other.held_out);
  tokens += other.tokens;
  held_out_tokens += other.held_out_tokens;
}

Statistics::Statistics(TokenStatistics text, TokenStatistics image, Detail detail)
    : detail_(detail), text_(std::move(text)), image_(std::move(image)) {}

void Statistics::add(const at::Tensor& x, const TokenRows& rows) {
  for (const bool held_out : {false, true}) {
    const TokenRows::Part &text = rows.part(false, held_out), &image = rows.part(true, held_out);
    text_.add(rows_of(x, text.rows), text.tickets, held_out, detail_);
    image_.add(rows_of(x, image.rows), image.tickets, held_out, detail_);
  }
}

void Statistics::merge(const Statistics& other) {
  text_.merge(other.text_);
  image_.merge(other.image_);
}

at::Tensor Statistics::abs_max() const {
  if (tokens() == 0) fail("calibration saw no tokens");
  if (!text_.abs_max.defined()) return image_.abs_max;
  return image_.abs_max.defined() ? at::maximum(text_.abs_max, image_.abs_max) : text_.abs_max;
}

at::Tensor Statistics::mean_magnitude(const ModalityWeights& weights) const {
  const double count =
      weights.text * static_cast<double>(text_.tokens) + weights.image * static_cast<double>(image_.tokens);
  if (!(count > 0)) fail("calibration saw no tokens");
  return (sum_of(scaled(text_.abs_sum, weights.text), scaled(image_.abs_sum, weights.image)) / count)
      .to(at::kFloat);
}

at::Tensor Statistics::gram(const ModalityWeights& weights) const {
  return sum_of(scaled(text_.gram, weights.text), scaled(image_.gram, weights.image));
}

DrawnTokens Statistics::draw(bool held_out, const ModalityWeights& weights) const {
  std::vector<at::Tensor> rows, counts;
  const auto add = [&](const TokenStatistics& seen, double weight) {
    const TokenSample& sample = held_out ? seen.held_out : seen.sample;
    if (sample.size() == 0) return;
    const int64_t tokens = held_out ? seen.held_out_tokens : seen.fitted_tokens();
    rows.push_back(sample.rows);
    counts.push_back(at::full({sample.size()},
                              weight * static_cast<double>(tokens) / static_cast<double>(sample.size()),
                              sample.rows.options()));
  };
  add(text_, weights.text);
  add(image_, weights.image);
  return rows.empty() ? DrawnTokens() : DrawnTokens{at::cat(rows), at::cat(counts)};
}

}  // namespace visq
