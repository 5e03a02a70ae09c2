#include "vocabulary.h"

#include <algorithm>

namespace gpt2kit {
namespace {

constexpr uint64_t kEmptyKey = UINT64_MAX;
constexpr size_t kMaxFileBytes = size_t{1} << 28;

// Bytes that print as themselves in Latin-1 keep their character; the others take 256, 257, ... in order.
constexpr bool prints_as_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct ByteAlphabet {
  uint16_t to_char[256];
  int16_t to_byte[324];  // -1: not in the alphabet
};
constexpr ByteAlphabet make_byte_alphabet() {
  ByteAlphabet table{};
  for (auto& byte : table.to_byte) byte = -1;
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    table.to_char[byte] = prints_as_itself(byte) ? static_cast<uint16_t>(byte) : next++;
    table.to_byte[table.to_char[byte]] = static_cast<int16_t>(byte);
  }
  return table;
}
constexpr ByteAlphabet kAlphabet = make_byte_alphabet();
static_assert(kAlphabet.to_char[' '] == 0x120 && kAlphabet.to_char[0xAD] == 323);

uint64_t hash_text(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u ^ text.size();
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, text.data() + i, 8);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  uint64_t word = 0;
  __builtin_memcpy(&word, text.data() + i, text.size() - i);
  hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
  return hash ^ hash >> 32;
}

uint64_t hash_pair(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;
  return key ^ key >> 32;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t table_size(size_t entries) {
  size_t size = 16;
  while (size < entries * 2) size *= 2;
  return size;
}

}  // namespace

uint32_t byte_to_char(uint8_t byte) { return kAlphabet.to_char[byte]; }

void append_spelt_bytes(std::string& out, std::string_view name) {
  const size_t start = out.size();
  for (size_t i = 0; i < name.size();) {
    const auto b = static_cast<uint8_t>(name[i]);
    uint32_t c = b;
    size_t length = 1;
    if (b >= 0x80 && b < 0xE0 && i + 1 < name.size()) {
      c = (b & 0x1Fu) << 6 | (static_cast<uint8_t>(name[i + 1]) & 0x3Fu);
      length = 2;
    } else if (b >= 0x80) {
      c = UINT32_MAX;
    }
    if (c >= 324 || kAlphabet.to_byte[c] < 0) {
      out.resize(start);
      out += name;
      return;
    }
    out += static_cast<char>(kAlphabet.to_byte[c]);
    i += length;
  }
}

Vocabulary::Vocabulary(std::string_view vocab_json, std::string_view merges, bool merges_are_json) {
  if (vocab_json.size() > kMaxFileBytes || merges.size() > kMaxFileBytes)
    throw VocabularyError("larger than 256 MiB; GPT-2's vocabulary has 1 MB");
  read_tokens(vocab_json);
  if (merges_are_json) {
    read_merges_json(merges);
  } else {
    read_merges_text(merges);
  }
  build_pairs();
}

void Vocabulary::read_tokens(std::string_view json) {
  JsonReader reader(json);
  arena_.reserve(json.size());
  reader.expect('{');
  if (!reader.take('}')) {
    // An entry takes at least five bytes ("":0,), which bounds the table before it is allocated.
    name_slots_.assign(table_size(json.size() / 12 + 16), kNoToken);
    do {
      const std::string_view name = reader.string();
      const auto begin = static_cast<uint32_t>(arena_.size());
      arena_ += name;
      names_.push_back({begin, static_cast<uint32_t>(name.size())});
      reader.expect(':');
      const uint32_t id = reader.integer(kMaxTokenId, "the id");
      add_token(view(names_.back()), id);
    } while (reader.take(','));
    reader.expect('}');
  }
  reader.expect_end();
  if (names_.empty()) throw VocabularyError("the vocabulary has no tokens");

  entry_of_id_.assign(static_cast<size_t>(*std::max_element(ids_.begin(), ids_.end())) + 1, kNoToken);
  bytes_.reserve(names_.size());
  std::string spelt;
  for (size_t entry = 0; entry < names_.size(); ++entry) {
    int32_t& owner = entry_of_id_[static_cast<size_t>(ids_[entry])];
    if (owner != kNoToken)
      throw VocabularyError("tokens " + quoted(view(names_[static_cast<size_t>(owner)])) + " and " +
                            quoted(view(names_[entry])) + " have the same id " + std::to_string(ids_[entry]));
    owner = static_cast<int32_t>(entry);
    spelt.clear();
    append_spelt_bytes(spelt, view(names_[entry]));
    bytes_.push_back({static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(spelt.size())});
    arena_ += spelt;
  }
  for (int byte = 0; byte < 256; ++byte) {
    std::string name;
    append_utf8(name, byte_to_char(static_cast<uint8_t>(byte)));
    byte_tokens_[byte] = find(name);
  }
}

void Vocabulary::add_token(std::string_view name, uint32_t id) {
  if (names_.size() * 2 > name_slots_.size()) {
    name_slots_.assign(name_slots_.size() * 2, kNoToken);
    for (size_t entry = 0; entry + 1 < names_.size(); ++entry)
      name_slots_[name_slot(view(names_[entry]))] = static_cast<int32_t>(entry);
  }
  int32_t& slot = name_slots_[name_slot(name)];
  if (slot != kNoToken) throw VocabularyError("token " + quoted(name) + " appears twice");
  slot = static_cast<int32_t>(names_.size()) - 1;
  ids_.push_back(static_cast<int32_t>(id));
}

size_t Vocabulary::name_slot(std::string_view name) const {
  const size_t mask = name_slots_.size() - 1;
  size_t slot = hash_text(name) & mask;
  while (name_slots_[slot] != kNoToken && view(names_[static_cast<size_t>(name_slots_[slot])]) != name)
    slot = (slot + 1) & mask;
  return slot;
}

void Vocabulary::read_merges_text(std::string_view text) {
  check_utf8(text);
  size_t line_number = 0;
  while (!text.empty()) {
    ++line_number;
    const size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 8) == "#version") continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos)
      throw VocabularyError("line " + std::to_string(line_number) + " of the merges is " + quoted(line) +
                            ", not two tokens with a space between them");
    add_merge(line.substr(0, space), line.substr(space + 1));
  }
}

void Vocabulary::read_merges_json(std::string_view json) {
  JsonReader reader(json);
  reader.expect('[');
  if (!reader.take(']')) {
    do {
      if (reader.take('[')) {
        const std::string left(reader.string());
        reader.expect(',');
        const std::string right(reader.string());
        reader.expect(']');
        add_merge(left, right);
        continue;
      }
      const std::string_view pair = reader.string();
      const size_t space = pair.find(' ');
      if (space == std::string_view::npos)
        throw VocabularyError("merge " + std::to_string(merges_.size()) + " is " + quoted(pair) +
                              ", not two tokens with a space between them");
      add_merge(pair.substr(0, space), pair.substr(space + 1));
    } while (reader.take(','));
    reader.expect(']');
  }
  reader.expect_end();
}

void Vocabulary::add_merge(std::string_view left, std::string_view right) {
  const int32_t left_id = find(left);
  const int32_t right_id = find(right);
  std::string both(left);
  both += right;
  const int32_t id = find(both);
  if (left_id == kNoToken || right_id == kNoToken || id == kNoToken) {
    const std::string_view missing = left_id == kNoToken ? left : right_id == kNoToken ? right : both;
    throw VocabularyError("merge " + std::to_string(merges_.size()) + " (" + quoted(left) + " + " +
                          quoted(right) + ") needs the token " + quoted(missing) +
                          ", which the vocabulary does not have");
  }
  merges_.push_back({pair_key(left_id, right_id), {static_cast<uint32_t>(merges_.size()), id}});
}

void Vocabulary::build_pairs() {
  pairs_.assign(table_size(merges_.size()), {kEmptyKey, {}});
  const size_t mask = pairs_.size() - 1;
  for (const PairSlot& merge : merges_) {
    size_t slot = hash_pair(merge.key) & mask;
    while (pairs_[slot].key != kEmptyKey && pairs_[slot].key != merge.key) slot = (slot + 1) & mask;
    pairs_[slot] = merge;  // of a pair that is listed twice the later rank holds, as in `tokenizers`
  }
  merges_ = {};
}

bool Vocabulary::has_id(int64_t id) const {
  return id >= 0 && id <= max_id() && entry_of_id_[static_cast<size_t>(id)] != kNoToken;
}

int32_t Vocabulary::find(std::string_view name) const {
  const int32_t entry = name_slots_[name_slot(name)];
  return entry == kNoToken ? kNoToken : ids_[static_cast<size_t>(entry)];
}

int32_t Vocabulary::find_bytes(std::string_view bytes) const {
  std::string name;
  for (const char byte : bytes) append_utf8(name, byte_to_char(static_cast<uint8_t>(byte)));
  return find(name);
}

std::string_view Vocabulary::name(int32_t id) const {
  return view(names_[static_cast<size_t>(entry_of_id_[static_cast<size_t>(id)])]);
}

std::string_view Vocabulary::bytes(int32_t id) const {
  return view(bytes_[static_cast<size_t>(entry_of_id_[static_cast<size_t>(id)])]);
}

Merge Vocabulary::merge(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = pairs_.size() - 1;
  for (size_t slot = hash_pair(key) & mask;; slot = (slot + 1) & mask) {
    if (pairs_[slot].key == key) return pairs_[slot].merge;
    if (pairs_[slot].key == kEmptyKey) return {};
  }
}

std::vector<std::pair<int32_t, int32_t>> Vocabulary::merges() const {
  std::vector<PairSlot> used;
  for (const PairSlot& slot : pairs_) {
    if (slot.key != kEmptyKey) used.push_back(slot);
  }
  std::sort(used.begin(), used.end(),
            [](const PairSlot& a, const PairSlot& b) { return a.merge.rank < b.merge.rank; });
  std::vector<std::pair<int32_t, int32_t>> result;
  for (const PairSlot& slot : used)
    result.emplace_back(static_cast<int32_t>(slot.key >> 32), static_cast<int32_t>(slot.key & UINT32_MAX));
  return result;
}

}  // namespace gpt2kit
