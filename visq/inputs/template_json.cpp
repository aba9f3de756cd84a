#include <algorithm>
#include <cmath>

#include "visq/inputs/template_interpreter.h"
#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {
namespace {

/// Python's json.dumps.
class Writer {
 public:
  Writer(Runtime& runtime, const Parameters& parameters) : runtime_(runtime), out_(runtime) {
    ensure_ascii_ = parameters.flag(0);
    sort_keys_ = parameters.flag(3);
    if (parameters.is_given(1)) {
      const auto width = integer_of(*parameters[1]);
      if (width) runtime.require_size(static_cast<size_t>(std::max<int64_t>(*width, 0)));
      indent_ =
          width ? std::string(static_cast<size_t>(std::max<int64_t>(*width, 0)), ' ') : parameters.text(1);
      item_separator_ = ",";
    }
    if (parameters.is_given(2)) set_separators(*parameters[2]);
  }

  std::string run(const Value& value) {
    write(value, 0);
    return out_.take();
  }

 private:
  void set_separators(const Value& value) {
    const std::vector<Value> parts = iterate(runtime_, value);
    if (parts.size() != 2 || !parts[0].text() || !parts[1].text())
      fail("tojson() needs two texts as separators");
    item_separator_ = *parts[0].text();
    key_separator_ = *parts[1].text();
  }

  void write(const Value& value, size_t level) {
    if (value.is_none()) {
      out_.add("null");
    } else if (const auto* flag = value.as<bool>()) {
      out_.add(*flag ? "true" : "false");
    } else if (const auto* integer = value.as<int64_t>()) {
      out_.add(std::to_string(*integer));
    } else if (const auto* number = value.as<double>()) {
      out_.add(number_text(*number));
    } else if (const auto* text = value.text()) {
      write_text(*text);
    } else if (const auto* sequence = value.sequence(); sequence && is_list(*sequence)) {
      write(*sequence, level);
    } else if (const auto* dict = value.dict()) {
      write(*dict, level);
    } else {
      fail("a value of type '{}' cannot be written as JSON", type_name(value));
    }
  }

  static bool is_list(const Sequence& sequence) {
    using Flavor = Sequence::Flavor;
    return sequence.flavor == Flavor::list || sequence.flavor == Flavor::tuple ||
           sequence.flavor == Flavor::group;
  }

  static std::string number_text(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return show_float(number);
  }

  void new_line(size_t level) {
    if (!indent_) return;
    out_.add("\n");
    out_.add(level, *indent_);
  }

  void separate(size_t i, size_t level) {
    if (i > 0) out_.add(item_separator_);
    new_line(level);
  }

  void write(const Sequence& sequence, size_t level) {
    out_.add("[");
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      separate(i, level + 1);
      write(sequence.items[i], level + 1);
    }
    if (!sequence.items.empty()) new_line(level);
    out_.add("]");
  }

  void write(const Dict& dict, size_t level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    runtime_.spend(entries.size());
    if (sort_keys_)
      std::ranges::stable_sort(entries,
                               [](const auto* a, const auto* b) { return compare(a->first, b->first) < 0; });
    out_.add("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      separate(i, level + 1);
      write_key(entries[i]->first);
      out_.add(key_separator_);
      write(entries[i]->second, level + 1);
    }
    if (!entries.empty()) new_line(level);
    out_.add("}");
  }

  void write_key(const Value& key) {
    if (key.text()) return write_text(*key.text());
    if (!key.is_none() && !number_of(key))
      fail("a value of type '{}' cannot be a key in JSON", type_name(key));
    out_.add("\"");
    write(key, 0);
    out_.add("\"");
  }

  void write_text(const std::string& text) {
    out_.add("\"");
    for (size_t i = 0; i < text.size();) {
      const size_t start = i;
      const char32_t c = next_char(text, i);
      static constexpr std::u32string_view kEscaped = U"\"\\\n\r\t\f\b";
      static constexpr std::string_view kLetters = "\"\\nrtfb";
      if (const size_t at = kEscaped.find(c); at != kEscaped.npos) {
        out_.add(std::string("\\") + kLetters[at]);
      } else if (c < 0x20 || (ensure_ascii_ && c >= 0x7F + 1)) {
        write_escape(static_cast<uint32_t>(c));
      } else {
        out_.add(std::string_view(text).substr(start, i - start));
      }
    }
    out_.add("\"");
  }

  void write_escape(uint32_t c) {
    if (c < 0x10000) return out_.add(visq::format("\\u{:04x}", c));
    out_.add(visq::format("\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + (c & 0x3FF)));
  }

  Runtime& runtime_;
  TextBuilder out_;
  bool ensure_ascii_ = false, sort_keys_ = false;
  std::optional<std::string> indent_;
  std::string item_separator_ = ", ", key_separator_ = ": ";
};

}  // namespace

Value to_json(Runtime& runtime, const Value& value, const Arguments& arguments) {
  const Parameters parameters("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  return runtime.text(Writer(runtime, parameters).run(value));
}

Value from_json(Runtime& runtime, const Json& json) {
  if (json.is_null()) return Value();
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    fail("the number {} needs more than 64 bits", json.get<uint64_t>());
  if (json.is_number_integer()) return Value(json.get<int64_t>());
  if (json.is_number_float()) return Value(json.get<double>());
  if (json.is_string()) return runtime.text(to_valid_utf8(json.get_ref<const std::string&>()));
  if (json.is_array()) {
    std::vector<Value> items;
    for (const Json& item : json) items.push_back(from_json(runtime, item));
    return runtime.list(std::move(items));
  }
  if (!json.is_object()) fail("binary data cannot be passed to a template");
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : json.items())
    entries.emplace_back(runtime.text(to_valid_utf8(key)), from_json(runtime, value));
  return runtime.dict(std::move(entries));
}

}  // namespace visq::jinja
