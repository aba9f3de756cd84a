#include "visq/families/image_layout.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "visq/core/error.h"
#include "visq/core/format.h"

namespace visq {
namespace {

using Kind = ImageLayout::Kind;
using nn::Grid;

/// Tiles, or steps of a video.
int64_t tiles_in(const ProcessedImage& image) {
  return image.pixels.dim() == 4 ? image.pixels.size(0) : image.grid_t;
}

/// Tiles that the tower sees of an image.
int64_t tower_tiles(const nn::VisionSpec& vision, const ProcessedImage& image) {
  return vision.joined_tiles > 0 ? vision.joined_tiles : tiles_in(image);
}

/// Grid of the feature rows of one tile.
Grid feature_grid(const ModelSpec& spec, const ProcessedImage& image) {
  return nn::projected_grid(spec.projector, image_grids(spec.vision, image).front());
}

/// Feature rows of one tile: its grid, and the class token where that is kept.
int64_t tile_rows(const ModelSpec& spec, const ProcessedImage& image) {
  const Grid patches = image_grids(spec.vision, image).front(), grid = feature_grid(spec, image);
  return grid.first * grid.second + nn::tower_tokens(spec.vision, patches) - patches.first * patches.second;
}

/// Python's int(round(x, 7)).
int64_t truncate(double x) { return static_cast<int64_t>(std::round(x * 1e7) / 1e7); }

/// Python's int(a // b), for positive numbers: the quotient is not rounded up to the next integer.
int64_t floor_divide(double a, double b) {
  return static_cast<int64_t>(std::round((a - std::fmod(a, b)) / b));
}

/// The part of a mosaic that shows the image, and the size that it shrinks to.
struct Unpadded {
  int64_t top = 0, left = 0, rows = 0, columns = 0;
  int64_t shrunk_rows = 0, shrunk_columns = 0;
};

/// Source: spec/models-llava-vila-qwen.md §4, §5. An odd leftover of the padding stays, as in the reference.
Unpadded unpad(const ImageLayout& layout, const Grid& tile, const ProcessedImage& image) {
  Unpadded part{0, 0, image.rows * tile.first, image.columns * tile.second};
  const auto height = static_cast<double>(image.height), width = static_cast<double>(image.width);
  const auto rows = static_cast<double>(part.rows), columns = static_cast<double>(part.columns);
  if (width / height > columns / rows) {
    part.top = (part.rows - truncate(height * (columns / width))) / 2;
    part.rows -= 2 * part.top;
  } else {
    part.left = (part.columns - truncate(width * (rows / height))) / 2;
    part.columns -= 2 * part.left;
  }
  part.shrunk_rows = part.rows, part.shrunk_columns = part.columns;
  if (layout.max_tiles == 0) return part;
  const double ratio = std::sqrt(static_cast<double>(part.rows * part.columns) /
                                 static_cast<double>(layout.max_tiles * tile.first * tile.first));
  if (ratio <= 1.1) return part;
  part.shrunk_rows = floor_divide(static_cast<double>(part.rows), ratio);
  part.shrunk_columns = floor_divide(static_cast<double>(part.columns), ratio);
  return part;
}

/// Rows and columns of the mosaic of tiles 1 … that show the image. Source: spec/models-phi-gemma.md §3.5.
Grid useful_grid(const Grid& tile, const ProcessedImage& image) {
  if (!image.patch_mask.defined()) return {image.rows * tile.first, image.columns * tile.second};
  const at::Tensor mask = image.patch_mask.narrow(0, 1, image.rows * image.columns);
  const int64_t step = mask.size(1) / tile.first;
  const at::Tensor shown = mask.slice(1, 0, std::nullopt, step)
                               .slice(2, 0, std::nullopt, step)
                               .view({image.rows, image.columns, tile.first, tile.second});
  return {shown.select(1, 0).select(2, 0).sum().item<int64_t>(),
          shown.select(0, 0).select(1, 0).sum().item<int64_t>()};
}

/// Tiles of the scale whose grid the others take.
Grid reference_tiles(const ImageLayout& layout, const ProcessedImage& image) {
  if (image.rows == 0) return {1, 1};
  const auto index = layout.reference_scale;
  if (index < 0 || index >= static_cast<int64_t>(layout.scales.size())) return {image.rows, image.columns};
  const int64_t side = layout.scales[static_cast<size_t>(index)];
  return {side, side};
}

/// What stack_scales() makes of an image: rows × columns blocks, each a map of its own to the projector.
struct Stacked {
  Grid blocks, map;
};

Stacked stacked(const ModelSpec& spec, const ProcessedImage& image) {
  const Grid tile = image_grids(spec.vision, image).front();
  const Grid blocks = reference_tiles(spec.layout, image);
  if (!spec.layout.joined_map) return {blocks, tile};
  return {{1, 1}, {blocks.first * tile.first, blocks.second * tile.second}};
}

std::string repeat(const std::string& text, int64_t count) {
  std::string repeated;
  repeated.reserve(text.size() * static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) repeated += text;
  return repeated;
}

std::string substitute(std::string text, const std::string& key, const std::string& value) {
  if (const size_t at = text.find(key); at != std::string::npos) text.replace(at, key.size(), value);
  return text;
}

std::string substitute(std::string text, const std::string& key, int64_t value) {
  return substitute(std::move(text), key, std::to_string(value));
}

/// Tiles laid side by side: [rows · columns · h · w, channels] → [rows · h, columns · w, channels].
at::Tensor mosaic(const at::Tensor& tiles, int64_t rows, int64_t columns, const Grid& tile) {
  return tiles.view({rows, columns, tile.first, tile.second, -1})
      .permute({0, 2, 1, 3, 4})
      .reshape({rows * tile.first, columns * tile.second, -1});
}

/// [h, w, channels] → [h · (w + 1), channels], `end` behind each line.
at::Tensor with_row_ends(const at::Tensor& map, const at::Tensor& end) {
  return at::cat({map, end.to(map.scalar_type()).view({1, 1, -1}).expand({map.size(0), 1, map.size(2)})}, 1)
      .flatten(0, 1);
}

at::Tensor resize(const at::Tensor& map, int64_t rows, int64_t columns) {
  const at::Tensor planes = map.permute({2, 0, 1}).unsqueeze(0).contiguous();
  return at::upsample_bilinear2d(planes, {rows, columns}, /*align_corners=*/false)[0].permute({1, 2, 0});
}

at::Tensor pack_anyres(const ModelSpec& spec, const LearnedRows& learned, const at::Tensor& rows,
                       const ProcessedImage& image) {
  if (image.rows == 0) return at::cat({rows, learned.row_end.to(rows.scalar_type()).unsqueeze(0)});
  const Grid tile = feature_grid(spec, image);
  const int64_t base = tile.first * tile.second;
  const Unpadded part = unpad(spec.layout, tile, image);
  at::Tensor map = mosaic(rows.narrow(0, base, rows.size(0) - base), image.rows, image.columns, tile)
                       .narrow(0, part.top, part.rows)
                       .narrow(1, part.left, part.columns);
  if (part.shrunk_rows != part.rows || part.shrunk_columns != part.columns)
    map = resize(map, part.shrunk_rows, part.shrunk_columns);
  return at::cat({rows.narrow(0, 0, base), with_row_ends(map, learned.row_end)});
}

at::Tensor pack_hd(const ModelSpec& spec, const LearnedRows& learned, const at::Tensor& rows,
                   const ProcessedImage& image) {
  const Grid tile = feature_grid(spec, image), useful = useful_grid(tile, image);
  const int64_t base = tile.first * tile.second;
  const at::Tensor whole = rows.narrow(0, 0, base).view({tile.first, tile.second, -1});
  const at::Tensor map = mosaic(rows.narrow(0, base, rows.size(0) - base), image.rows, image.columns, tile)
                             .narrow(0, 0, useful.first)
                             .narrow(1, 0, useful.second);
  return at::cat({with_row_ends(map, learned.row_end), learned.separator.to(rows.scalar_type()).unsqueeze(0),
                  with_row_ends(whole, learned.row_end)});
}

/// `end` behind each of `parts` equal parts of the rows.
at::Tensor with_ends(const at::Tensor& rows, int64_t parts, const at::Tensor& end) {
  if (!end.defined()) return rows;
  return with_row_ends(rows.view({parts, rows.size(0) / parts, rows.size(1)}), end);
}

std::string tagged_text(const ModelSpec& spec, const ProcessedImage& image) {
  const ImageLayout& layout = spec.layout;
  const std::string tile = repeat(spec.image_token, tile_rows(spec, image));
  std::string text;
  for (int64_t row = 1; row <= image.rows; ++row) {
    for (int64_t column = 1; column <= image.columns; ++column) {
      if (column > 1) text += layout.tile_gap;
      text += substitute(substitute(layout.tile_tag, "{row}", row), "{column}", column) + tile;
    }
    text += layout.line_end;
  }
  return text + (image.rows > 0 ? layout.tiles_end : "") + layout.global_tag + tile;
}

std::string lines_text(const ModelSpec& spec, const ProcessedImage& image) {
  const auto [rows, columns] = feature_grid(spec, image);
  std::string text;
  for (int64_t row = 1; row <= rows; ++row)
    text += repeat(spec.image_token, columns) + (row < rows ? spec.layout.row_break : spec.layout.last_break);
  return text;
}

std::string run_text(const ModelSpec& spec, const ProcessedImage& image) {
  switch (spec.layout.kind) {
    case Kind::tagged:
      return tagged_text(spec, image);
    case Kind::row_breaks:
      return lines_text(spec, image);
    case Kind::flat: {
      const int64_t tiles = tiles_in(image);
      const std::string& end = image.pixels.dim() == 4 ? spec.layout.tile_end : "";
      return repeat(repeat(spec.image_token, image_tokens(spec, image) / tiles) + end, tiles);
    }
    case Kind::cross:
      return spec.image_token;
    case Kind::anyres:
    case Kind::hd:
    case Kind::scales:
      break;
  }
  return repeat(spec.image_token, image_tokens(spec, image));
}

/// Seconds of the middle of a step: halfway between its first and its last frame.
double middle_of(const ProcessedImage& video, int64_t step, int64_t frames_per_step) {
  const int64_t first = step * frames_per_step, last = std::min(first + frames_per_step, video.frames) - 1;
  return (static_cast<double>(first) / video.fps + static_cast<double>(last) / video.fps) / 2;
}

std::string video_text(const ModelSpec& spec, const ProcessedImage& video) {
  const VideoLayout& layout = spec.video;
  const std::string run = repeat(layout.token, image_tokens(spec, video) / video.grid_t);
  std::string text;
  for (int64_t step = 0; step < video.grid_t; ++step) {
    const double seconds = middle_of(video, step, spec.vision.temporal_patch);
    text += substitute(layout.step_before, "{seconds}", visq::format("{:.1f}", seconds)) + run +
            layout.step_after;
  }
  return text;
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

}  // namespace

std::vector<Grid> image_grids(const nn::VisionSpec& vision, const ProcessedImage& image) {
  if (vision.input == nn::VisionInput::patches)
    return std::vector<Grid>(static_cast<size_t>(image.grid_t), {image.grid_h, image.grid_w});
  const Grid grid = {image.pixels.size(-2) / vision.patch, image.pixels.size(-1) / vision.patch};
  return std::vector<Grid>(static_cast<size_t>(tower_tiles(vision, image)), grid);
}

int64_t feature_rows(const ModelSpec& spec, const ProcessedImage& image) {
  if (spec.layout.kind != Kind::scales) return tower_tiles(spec.vision, image) * tile_rows(spec, image);
  return tiles_in(image) * nn::tower_tokens(spec.vision, image_grids(spec.vision, image).front());
}

int64_t image_tokens(const ModelSpec& spec, const ProcessedImage& image) {
  const ImageLayout& layout = spec.layout;
  const int64_t tile = tile_rows(spec, image), end = layout.end_id ? 1 : 0;
  switch (layout.kind) {
    case Kind::flat:
      return tiles_in(image) * (tile + end);
    case Kind::row_breaks:
    case Kind::tagged:
      return tiles_in(image) * tile;
    case Kind::anyres: {
      if (image.rows == 0) return tile + 1;
      const Unpadded part = unpad(layout, feature_grid(spec, image), image);
      return tile + part.shrunk_rows * (part.shrunk_columns + 1);
    }
    case Kind::hd: {
      const Grid grid = feature_grid(spec, image), useful = useful_grid(grid, image);
      return useful.first * (useful.second + 1) + 1 + grid.first * (grid.second + 1);
    }
    case Kind::scales: {
      const auto [blocks, map] = stacked(spec, image);
      const Grid projected = nn::projected_grid(spec.projector, map);
      return blocks.first * blocks.second * projected.first * projected.second + end;
    }
    case Kind::cross:
      return 0;
  }
  fail("image layout {} does not exist", static_cast<int>(layout.kind));
}

std::string image_text(const ModelSpec& spec, const ProcessedImage& image) {
  if (image.is_video()) return video_text(spec, image);
  return spec.layout.before + run_text(spec, image) + spec.layout.after;
}

std::string image_placeholder(const ModelSpec& spec, int64_t n) {
  return substitute(spec.image_placeholder.empty() ? spec.image_token : spec.image_placeholder, "{n}", n);
}

std::string expand_images(const ModelSpec& spec, const std::string& prompt,
                          std::span<const ProcessedImage> images) {
  const std::string& token = spec.image_token;
  const std::string& pattern = spec.image_placeholder.empty() ? token : spec.image_placeholder;
  const auto videos = static_cast<size_t>(std::ranges::count_if(images, &ProcessedImage::is_video));
  const auto check = [&](const char* kind, const std::string& placeholder, size_t wanted) {
    if (const size_t found = count_of(prompt, placeholder); found != wanted)
      fail("the prompt has {} {} placeholders for {} {}s: {}", found, kind, wanted, kind,
           found > wanted ? visq::format("a text contains '{}' literally; take it out", placeholder)
                          : "the chat template leaves some out");
  };
  if (pattern.find("{n}") == std::string::npos) check("image", pattern, images.size() - videos);
  if (spec.video.token_id) check("video", spec.video.token, videos);
  std::string expanded;
  size_t at = 0;
  const auto add_text = [&](size_t end) {  // which would pass for images that there are not
    const std::string text = prompt.substr(at, end - at);
    if (text.find(token) != std::string::npos) fail("a text contains '{}' literally; take it out", token);
    expanded += text;
  };
  int64_t pictures = 0;
  for (const ProcessedImage& image : images) {
    const std::string placeholder = image.is_video() ? spec.video.token : image_placeholder(spec, ++pictures);
    const size_t next = prompt.find(placeholder, at);
    if (next == std::string::npos)
      fail("the prompt has no '{}' behind the placeholders of the images before it", placeholder);
    add_text(next);
    expanded += image_text(spec, image);
    at = next + placeholder.size();
  }
  add_text(prompt.size());
  return expanded;
}

at::Tensor pack_image(const ModelSpec& spec, const LearnedRows& learned, const at::Tensor& rows,
                      const ProcessedImage& image) {
  switch (spec.layout.kind) {
    case Kind::row_breaks:
    case Kind::tagged:
    case Kind::cross:
      return rows;
    case Kind::flat:
      return with_ends(rows, tiles_in(image), learned.end);
    case Kind::anyres:
      return pack_anyres(spec, learned, rows, image);
    case Kind::hd:
      return pack_hd(spec, learned, rows, image);
    case Kind::scales: {
      const auto [blocks, map] = stacked(spec, image);
      const Grid projected = nn::projected_grid(spec.projector, map);
      return with_ends(mosaic(rows, blocks.first, blocks.second, projected).flatten(0, 1), 1, learned.end);
    }
  }
  fail("image layout {} does not exist", static_cast<int>(spec.layout.kind));
}

at::Tensor stack_scales(const ModelSpec& spec, const at::Tensor& rows, const ProcessedImage& image) {
  const auto scales = static_cast<int64_t>(spec.layout.scales.size()) + 1;
  if (image.rows == 0) return rows.repeat({1, scales});
  const Grid tile = image_grids(spec.vision, image).front();
  const Stacked to = stacked(spec, image);
  const int64_t tile_size = tile.first * tile.second;
  std::vector<at::Tensor> maps;
  int64_t first = 0;
  const auto add = [&](int64_t down, int64_t across) {
    const at::Tensor map =
        mosaic(rows.narrow(0, first, down * across * tile_size), down, across, tile).permute({2, 0, 1});
    maps.push_back(at::adaptive_avg_pool2d(map.to(at::kFloat).contiguous(),
                                           {to.blocks.first * to.map.first, to.blocks.second * to.map.second})
                       .to(rows.scalar_type()));
    first += down * across * tile_size;
  };
  for (const int64_t side : spec.layout.scales) add(side, side);
  add(image.rows, image.columns);
  return at::cat(maps)  // [channels · scales, height, width]
      .view({-1, to.blocks.first, to.map.first, to.blocks.second, to.map.second})
      .permute({1, 3, 2, 4, 0})
      .reshape({to.blocks.first * to.blocks.second * to.map.first * to.map.second, -1});
}

std::vector<Grid> stacked_grids(const ModelSpec& spec, const ProcessedImage& image) {
  const auto [blocks, map] = stacked(spec, image);
  return std::vector<Grid>(static_cast<size_t>(blocks.first * blocks.second), map);
}

}  // namespace visq
