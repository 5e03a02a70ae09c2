#pragma once

// What pieces have become, so that most of a text is never merged. One cache serves one thread at a time.
// Two tables: short pieces (nearly all) take a quarter of a cache line; long ones a line or two.

#include <cstdint>
#include <cstring>
#include <memory>

namespace gpt2kit {

class PieceCache {
 public:
  static constexpr size_t kShortBytes = 15;
  static constexpr size_t kShortIds = 3;
  static constexpr size_t kLongBytes = 46;
  static constexpr size_t kLongIds = 20;

  // A piece of up to 15 bytes with its length in the last byte.
  struct ShortKey {
    uint64_t low, high;
    bool operator==(const ShortKey& other) const { return low == other.low && high == other.high; }
  };
  struct ShortSlot {
    ShortKey key;
    int32_t ids[kShortIds];
    int32_t count;
  };
  static_assert(sizeof(ShortSlot) == 32);
  struct LongSlot {
    uint8_t size;  // 0: empty
    uint8_t count;
    uint8_t bytes[kLongBytes];
    int32_t ids[kLongIds];
  };
  static_assert(sizeof(LongSlot) == 128);

  PieceCache() : short_(new ShortSlot[kShortSlots]()), long_(new LongSlot[kLongSlots]()) {}

  // size <= kShortBytes. `readable` bytes may be read from p.
  static ShortKey short_key(const uint8_t* p, size_t size, size_t readable) {
    ShortKey key{0, 0};
    if (readable >= 16) {
      std::memcpy(&key, p, 16);
      // Keep the first `size` bytes; shifts by 64 are undefined, so each half shifts twice.
      const unsigned low_bits = size < 8 ? 8 * static_cast<unsigned>(size) : 64;
      const unsigned high_bits = size < 8 ? 0 : 8 * static_cast<unsigned>(size - 8);
      key.low &= low_bits == 64 ? UINT64_MAX : (uint64_t{1} << low_bits) - 1;
      key.high &= (uint64_t{1} << high_bits) - 1;
    } else {
      std::memcpy(&key, p, size);
    }
    key.high |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  // Null if absent. Each set has two slots.
  const ShortSlot* find_short(const ShortKey& key) const {
    const ShortSlot* set = &short_[short_set(key)];
    if (set[0].key == key) return set;
    return set[1].key == key ? set + 1 : nullptr;
  }

  // count <= kShortIds. The newest piece stands first; the older one of the set makes room.
  void put_short(const ShortKey& key, const int32_t* ids, size_t count) {
    ShortSlot* set = &short_[short_set(key)];
    set[1] = set[0];
    set[0].key = key;
    std::memcpy(set[0].ids, ids, count * sizeof(int32_t));
    set[0].count = static_cast<int32_t>(count);
  }

  // size <= kLongBytes. Null if absent.
  const LongSlot* find_long(const uint8_t* p, size_t size) const {
    const LongSlot& slot = long_[long_index(p, size)];
    return slot.size == size && std::memcmp(slot.bytes, p, size) == 0 ? &slot : nullptr;
  }

  // size <= kLongBytes, count <= kLongIds.
  void put_long(const uint8_t* p, size_t size, const int32_t* ids, size_t count) {
    LongSlot& slot = long_[long_index(p, size)];
    slot.size = static_cast<uint8_t>(size);
    slot.count = static_cast<uint8_t>(count);
    std::memcpy(slot.bytes, p, size);
    std::memcpy(slot.ids, ids, count * sizeof(int32_t));
  }

 private:
  // 1 MB and 256 KB: about the second-level cache of one core.
  static constexpr size_t kShortSlots = 1 << 15;
  static constexpr size_t kLongSlots = 1 << 11;
  static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio

  static size_t short_set(const ShortKey& key) {
    uint64_t hash = (key.low ^ (key.high * kMultiplier)) * kMultiplier;
    hash ^= hash >> 32;
    return (hash * kMultiplier >> 40) & (kShortSlots - 2);
  }

  static size_t long_index(const uint8_t* p, size_t size) {
    uint64_t hash = size;
    for (; size >= 8; p += 8, size -= 8) {
      uint64_t word;
      std::memcpy(&word, p, 8);
      hash = (hash ^ word) * kMultiplier;
      hash ^= hash >> 32;
    }
    uint64_t word = 0;
    std::memcpy(&word, p, size);
    hash = (hash ^ word) * kMultiplier;
    return hash >> 40 & (kLongSlots - 1);
  }

  std::unique_ptr<ShortSlot[]> short_;
  std::unique_ptr<LongSlot[]> long_;
};

}  // namespace gpt2kit
