#include "visq/pipeline/pareto_plot.h"

#include <algorithm>
#include <cmath>

#include "visq/core/format.h"

namespace visq {
namespace {

constexpr double kWidth = 760, kHeight = 460, kLeft = 84, kRight = 24, kTop = 48, kBottom = 60;
constexpr const char *kInk = "#24292f", *kGrid = "#e3e6ea", *kCurve = "#1f6feb", *kChosen = "#cf222e";

std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text)
    safe += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  return safe;
}

/// From values to places in the picture.
class Axes {
 public:
  explicit Axes(const std::vector<PlotPoint>& points) {
    const auto [narrow, wide] = std::ranges::minmax_element(points, {}, &PlotPoint::bits);
    const auto [low, high] = std::ranges::minmax_element(points, {}, &PlotPoint::kl);
    left_ = std::floor(narrow->bits);
    right_ = std::max(std::ceil(wide->bits), left_ + 1);
    bottom_ = std::floor(std::log10(low->kl));
    top_ = std::max(std::ceil(std::log10(high->kl)), bottom_ + 1);
  }
  double x(double bits) const {
    return kLeft + (bits - left_) / (right_ - left_) * (kWidth - kLeft - kRight);
  }
  double y(double kl) const {
    return kHeight - kBottom - (std::log10(kl) - bottom_) / (top_ - bottom_) * (kHeight - kTop - kBottom);
  }

  std::string grid() const {
    std::string svg;
    const double step = right_ - left_ > 8 ? 2 : 1;
    for (double bits = left_; bits <= right_; bits += step)
      svg += visq::format(
          "<line x1='{0:.1f}' y1='{1}' x2='{0:.1f}' y2='{2}' stroke='{3}'/>"
          "<text x='{0:.1f}' y='{4}' text-anchor='middle'>{5:g}</text>\n",
          x(bits), kTop, kHeight - kBottom, kGrid, kHeight - kBottom + 18, bits);
    for (double decade = bottom_; decade <= top_; ++decade)
      svg += visq::format(
          "<line x1='{0}' y1='{1:.1f}' x2='{2}' y2='{1:.1f}' stroke='{3}'/>"
          "<text x='{4}' y='{5:.1f}' text-anchor='end'>10<tspan dy='-5' "
          "font-size='9'>{6:.0f}</tspan></text>\n",
          kLeft, y(std::pow(10, decade)), kWidth - kRight, kGrid, kLeft - 8, y(std::pow(10, decade)) + 4,
          decade);
    return svg;
  }

 private:
  double left_, right_, bottom_, top_;  // bits, bits; decades
};

}  // namespace

std::string pareto_svg(const std::string& title, const std::vector<PlotPoint>& curve,
                       const std::vector<PlotPoint>& marked) {
  std::vector<PlotPoint> line, points;
  std::ranges::copy_if(curve, std::back_inserter(line), [](const PlotPoint& point) { return point.kl > 0; });
  std::ranges::copy_if(marked, std::back_inserter(points),
                       [](const PlotPoint& point) { return point.kl > 0; });
  std::vector<PlotPoint> all = line;
  all.insert(all.end(), points.begin(), points.end());
  std::string svg = visq::format(
      "<svg xmlns='http://www.w3.org/2000/svg' width='{0}' height='{1}' viewBox='0 0 {0} {1}' "
      "font-family='sans-serif' font-size='12' fill='{2}'>\n<rect width='{0}' height='{1}' fill='white'/>\n"
      "<text x='{3}' y='26' font-size='15' font-weight='bold'>{4}</text>\n",
      kWidth, kHeight, kInk, kLeft, escaped(title));
  if (!all.empty()) {
    const Axes axes(all);
    svg += axes.grid();
    std::string path;
    for (const PlotPoint& point : line)
      path += visq::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", axes.x(point.bits), axes.y(point.kl));
    svg += visq::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='2'/>\n", path, kCurve);
    for (const PlotPoint& point : line)
      svg += visq::format("<circle cx='{:.1f}' cy='{:.1f}' r='2.5' fill='{}'/>\n", axes.x(point.bits),
                          axes.y(point.kl), kCurve);
    for (size_t i = points.size(); i-- > 0;) {  // the chosen one on top
      const double x = axes.x(points[i].bits), y = axes.y(points[i].kl);
      // Names of formats stand above, that of the mix below, where the curve is not.
      const bool chosen = i == 0, left = x > 0.75 * kWidth;
      svg += visq::format(
          "<circle cx='{:.1f}' cy='{:.1f}' r='5' fill='{}' stroke='white' stroke-width='1.5'/>"
          "<text x='{:.1f}' y='{:.1f}' text-anchor='{}' stroke='white' stroke-width='3' "
          "paint-order='stroke'>{}</text>\n",
          x, y, chosen ? kChosen : kInk,
          chosen ? x - 4
          : left ? x - 9
                 : x + 9,
          chosen ? y + 26 : y - 8, left ? "end" : "start", escaped(points[i].label));
    }
  }
  return svg + visq::format(
                   "<text x='{:.1f}' y='{}' text-anchor='middle'>bits a weight, scales included</text>\n"
                   "<text transform='translate(22 {:.1f}) rotate(-90)' text-anchor='middle'>predicted KL "
                   "divergence, "
                   "nats a token</text>\n</svg>\n",
                   (kLeft + kWidth - kRight) / 2, kHeight - 18, (kTop + kHeight - kBottom) / 2);
}

}  // namespace visq
