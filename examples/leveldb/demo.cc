// Writes a thousand keys into a fresh LevelDB, reads them back, compacts, and reads them again.
// Prints the same bytes on every machine; exits with 1 at the first thing that is not as it should be.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "leveldb/db.h"
#include "leveldb/write_batch.h"

namespace {

const int kKeys = 1000;

void Check(const leveldb::Status& status, const char* step) {
  if (status.ok()) return;
  fprintf(stderr, "%s: %s\n", step, status.ToString().c_str());
  exit(1);
}

std::string KeyOf(int i) {
  char key[16];
  snprintf(key, sizeof key, "key-%06d", i);
  return key;
}

// Repeats itself, so that snappy has something to do.
std::string ValueOf(int i) {
  std::string value;
  while (value.size() < 200) value += "value " + std::to_string(i * 7919 % kKeys) + "; ";
  return value;
}

// FNV-1a over all keys and values in order.
uint64_t Sum(leveldb::DB* db, int* count) {
  uint64_t sum = 14695981039346656037ull;
  *count = 0;
  std::unique_ptr<leveldb::Iterator> it(db->NewIterator(leveldb::ReadOptions()));
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++*count)
    for (unsigned char c : it->key().ToString() + it->value().ToString())
      sum = (sum ^ c) * 1099511628211ull;
  Check(it->status(), "iterating");
  return sum;
}

}  // namespace

int main() {
  const char* temporary = getenv("TMPDIR");
  const std::string path = std::string(temporary ? temporary : "/tmp") + "/mesh-leveldb-demo";
  leveldb::Options options;
  options.create_if_missing = true;
  options.error_if_exists = true;
  options.compression = leveldb::kSnappyCompression;
  leveldb::DB* opened = nullptr;
  Check(leveldb::DB::Open(options, path, &opened), "opening");
  {
    std::unique_ptr<leveldb::DB> db(opened);
    printf("leveldb %d.%d\n", leveldb::kMajorVersion, leveldb::kMinorVersion);
    for (int i = 0; i < kKeys; i += 10) {
      leveldb::WriteBatch batch;
      for (int j = i; j < i + 10; ++j) batch.Put(KeyOf(j), ValueOf(j));
      Check(db->Write(leveldb::WriteOptions(), &batch), "writing");
    }
    printf("wrote %d keys\n", kKeys);
    std::string value;
    leveldb::StringValueSink sink(&value);
    for (int i = 0; i < kKeys; ++i) {
      Check(db->Get(leveldb::ReadOptions(), KeyOf(i), &sink), "reading");
      if (value != ValueOf(i)) {
        fprintf(stderr, "%s has another value than was written\n", KeyOf(i).c_str());
        return 1;
      }
    }
    int count = 0;
    const uint64_t before = Sum(db.get(), &count);
    printf("read %d keys, sum %016llx\n", count, static_cast<unsigned long long>(before));
    db->CompactRange(nullptr, nullptr);
    const uint64_t after = Sum(db.get(), &count);
    printf("compacted: %d keys, sum %s\n", count, before == after ? "unchanged" : "CHANGED");
    if (before != after || count != kKeys) return 1;
  }
  Check(leveldb::DestroyDB(path, options), "removing");
  return 0;
}
