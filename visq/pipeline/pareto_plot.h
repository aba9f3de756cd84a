// The curve of bits against predicted KL divergence, as a picture.
#pragma once
#include <string>
#include <vector>

namespace visq {

struct PlotPoint {
  double bits = 0, kl = 0;
  std::string label = {};
};

/// SVG: bits on a linear axis, KL on a logarithmic one. Points without KL are left out.
/// @param curve   by ascending bits
/// @param marked  points with labels, the first of them the chosen one
std::string pareto_svg(const std::string& title, const std::vector<PlotPoint>& curve,
                       const std::vector<PlotPoint>& marked);

}  // namespace visq
