#pragma once

// What pieces have become, so that most of a text is never merged. One cache serves one thread at a time.
// Two tables: short pieces (nearly all) take half a cache line; long ones two lines.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace gpt2kit {

class PieceCache {
 public:
  static constexpr size_t kShortBytes = 15;
  // Ids are copied in blocks of this many: up to so many more can be read after the last one.
  static constexpr size_t kBlock = 4;
  static constexpr size_t kLongBytes = 46;
  static constexpr size_t kLongIds = 20;

  // A piece of up to 15 bytes with its length in the last byte.
  struct ShortKey {
    uint64_t low, high;
    bool operator==(const ShortKey& other) const { return low == other.low && high == other.high; }
  };
  struct ShortSlot {
    ShortKey key;
    int32_t ids[3];  // if there are more, ids[0] is their place in more_ids_
    int32_t count;
  };
  static_assert(sizeof(ShortSlot) == 32);
  static constexpr size_t kInlineIds = 3;
  struct LongSlot {
    uint8_t size;  // 0: empty
    uint8_t count;
    uint8_t bytes[kLongBytes];
    int32_t ids[kLongIds];  // a multiple of kBlock
  };
  static_assert(sizeof(LongSlot) == 128 && kLongIds % kBlock == 0);

  struct Ids {
    const int32_t* data;  // null: not in the cache
    size_t count;
  };

  struct Masks {
    ShortKey of[kShortBytes + 1];
  };
  static constexpr Masks make_masks() {
    Masks masks{};
    for (size_t size = 0; size <= kShortBytes; ++size) {
      masks.of[size].low = size < 8 ? (uint64_t{1} << 8 * size) - 1 : UINT64_MAX;
      masks.of[size].high = size < 8 ? 0 : (uint64_t{1} << 8 * (size - 8)) - 1;
    }
    return masks;
  }
  static const Masks kMasks;  // little-endian, as the key

  PieceCache() : short_(zeroed<ShortSlot>(kShortSlots)), long_(zeroed<LongSlot>(kLongSlots)) {}

  // size <= kShortBytes. `readable` bytes may be read from p.
  static ShortKey short_key(const uint8_t* p, size_t size, size_t readable) {
    ShortKey key{0, 0};
    if (readable >= 16) {
      // Keep the first `size` bytes.
      std::memcpy(&key, p, 16);
      key.low &= kMasks.of[size].low;
      key.high &= kMasks.of[size].high;
    } else {
      std::memcpy(&key, p, size);
    }
    key.high |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  // Where a short piece is kept; for prefetch_short and find_short. Each set has two slots.
  static size_t short_set(const ShortKey& key) {
    uint64_t hash = (key.low ^ (key.high * kMultiplier)) * kMultiplier;
    hash ^= hash >> 32;
    return (hash * kMultiplier >> 40) & (kShortSlots - 2);
  }
  void prefetch_short(size_t set) const { __builtin_prefetch(&short_[set]); }

  Ids find_short(const ShortKey& key, size_t set) const {
    const ShortSlot* slot = &short_[set];
    if (!(slot->key == key) && !((++slot)->key == key)) return {nullptr, 0};
    const auto count = static_cast<size_t>(slot->count);
    return {count <= kInlineIds ? slot->ids : more_ids_.data() + slot->ids[0], count};
  }

  // The newest piece stands first; the older one of the set makes room.
  void put_short(const ShortKey& key, const int32_t* ids, size_t count) {
    if (more_ids_.size() + kShortBytes > kMaxMoreIds) {
      std::memset(short_.get(), 0, kShortSlots * sizeof(ShortSlot));
      more_ids_.clear();
    }
    ShortSlot* slots = &short_[short_set(key)];
    slots[1] = slots[0];
    slots[0].key = key;
    slots[0].count = static_cast<int32_t>(count);
    if (count <= kInlineIds) {
      std::copy(ids, ids + count, slots[0].ids);
      return;
    }
    slots[0].ids[0] = static_cast<int32_t>(more_ids_.size());
    more_ids_.insert(more_ids_.end(), ids, ids + count);
    more_ids_.reserve(more_ids_.size() + kBlock);
  }

  // size <= kLongBytes.
  Ids find_long(const uint8_t* p, size_t size) const {
    const LongSlot& slot = long_[long_index(p, size)];
    if (slot.size != size || std::memcmp(slot.bytes, p, size) != 0) return {nullptr, 0};
    return {slot.ids, slot.count};
  }

  // size <= kLongBytes, count <= kLongIds.
  void put_long(const uint8_t* p, size_t size, const int32_t* ids, size_t count) {
    LongSlot& slot = long_[long_index(p, size)];
    slot.size = static_cast<uint8_t>(size);
    slot.count = static_cast<uint8_t>(count);
    std::memcpy(slot.bytes, p, size);
    std::copy(ids, ids + count, slot.ids);
  }

 private:
  // 4 MB and 256 KB.
  static constexpr size_t kShortSlots = 1 << 17;
  static constexpr size_t kLongSlots = 1 << 11;
  static constexpr size_t kMaxMoreIds = 1 << 20;                // 4 MB; then all short pieces are forgotten
  static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio

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

  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  template <class Slot>
  using Slots = std::unique_ptr<Slot[], Free>;

  // Memory from calloc is not touched, so a process that encodes little pays for little.
  template <class Slot>
  static Slots<Slot> zeroed(size_t count) {
    void* memory = std::calloc(count, sizeof(Slot));
    if (!memory) throw std::bad_alloc();
    return Slots<Slot>(static_cast<Slot*>(memory));
  }

  Slots<ShortSlot> short_;
  Slots<LongSlot> long_;
  std::vector<int32_t> more_ids_;
};

inline constexpr PieceCache::Masks PieceCache::kMasks = PieceCache::make_masks();

}  // namespace gpt2kit
