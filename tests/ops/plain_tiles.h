// The tile registers of AMX in plain C++, by the description of the instructions: what the processor
// would refuse is counted in `faults`.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace plain {

struct Tile {
  int rows, bytes;
  uint8_t values[16][64];
};

static Tile tiles[8];
static bool configured = false;
static int faults = 0;

static void configure(const void* memory) {
  uint8_t raw[64];
  std::memcpy(raw, memory, 64);
  faults += raw[0] != 1;
  for (int i = 1; i < 16; i++) faults += raw[i] != 0;
  std::memset(tiles, 0, sizeof tiles);
  for (int t = 0; t < 16; t++) {
    uint16_t bytes;
    std::memcpy(&bytes, raw + 16 + 2 * t, 2);
    const int rows = raw[48 + t];
    if (t < 8) tiles[t].rows = rows, tiles[t].bytes = bytes;
    faults += rows > 16 || bytes > 64 || (t >= 8 && (rows || bytes)) || !rows != !bytes;
  }
  configured = true;
}

static Tile& used(int tile) {
  faults += !configured || !tiles[tile].rows;
  return tiles[tile];
}

static void zero(int tile) { std::memset(used(tile).values, 0, sizeof(Tile::values)); }

static void load(int tile, const void* from, int64_t stride) {
  Tile& to = used(tile);
  zero(tile);
  for (int r = 0; r < to.rows; r++)
    std::memcpy(to.values[r], (const uint8_t*)from + r * stride, to.bytes);
}

static void store(int tile, void* to, int64_t stride) {
  const Tile& from = used(tile);
  for (int r = 0; r < from.rows; r++)
    std::memcpy((uint8_t*)to + r * stride, from.values[r], from.bytes);
}

// Unsigned bytes of `a` times signed ones of `b`.
static void multiply(int to, int a, int b) {
  Tile &sums = used(to), &left = used(a), &right = used(b);
  faults += sums.rows != left.rows || sums.bytes != right.bytes || left.bytes != 4 * right.rows;
  for (int r = 0; r < sums.rows; r++)
    for (int k = 0; k < right.rows; k++)
      for (int c = 0; c < sums.bytes / 4; c++) {
        int32_t sum;
        std::memcpy(&sum, sums.values[r] + 4 * c, 4);
        for (int i = 0; i < 4; i++)
          sum += (int32_t)left.values[r][4 * k + i] * (int8_t)right.values[k][4 * c + i];
        std::memcpy(sums.values[r] + 4 * c, &sum, 4);
      }
}

static void release() { configured = false; }

}  // namespace plain

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbusd
#define _tile_loadconfig plain::configure
#define _tile_release plain::release
#define _tile_zero plain::zero
#define _tile_loadd plain::load
#define _tile_stored plain::store
#define _tile_dpbusd plain::multiply
