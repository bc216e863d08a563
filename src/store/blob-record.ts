/** What the index of the file store has of each blob and of all together, and how it is written. */
import type { StoreStats } from './blob-store.ts'

export interface BlobRecord {
  readonly sizeBytes: number
  readonly usedAtMs: number
  /** Whether the file and its name were synced since it was written. */
  readonly isSynced: boolean
}

/** The sums when one record takes the place of another. */
export function changed(
  stats: StoreStats,
  before: BlobRecord | undefined,
  after: BlobRecord | undefined,
): StoreStats {
  return {
    count: stats.count + (after === undefined ? 0 : 1) - (before === undefined ? 0 : 1),
    bytes: stats.bytes + (after?.sizeBytes ?? 0) - (before?.sizeBytes ?? 0),
  }
}

const RECORD_BYTES = 17

export function encodeRecord(record: BlobRecord): Uint8Array {
  const bytes = Buffer.allocUnsafe(RECORD_BYTES)
  bytes.writeDoubleBE(record.sizeBytes, 0)
  bytes.writeDoubleBE(record.usedAtMs, 8)
  bytes[16] = record.isSynced ? 1 : 0
  return bytes
}

export function decodeRecord(value: Uint8Array): BlobRecord {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return {
    sizeBytes: bytes.readDoubleBE(0),
    usedAtMs: bytes.readDoubleBE(8),
    isSynced: bytes[16] === 1,
  }
}

export function encodeTotals(stats: StoreStats, lastUseMs: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(24)
  bytes.writeDoubleBE(stats.count, 0)
  bytes.writeDoubleBE(stats.bytes, 8)
  bytes.writeDoubleBE(lastUseMs, 16)
  return bytes
}

export function decodeTotals(value: Uint8Array | undefined): {
  stats: StoreStats
  lastUseMs: number
} {
  if (value === undefined) return { stats: { count: 0, bytes: 0 }, lastUseMs: 0 }
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return {
    stats: { count: bytes.readDoubleBE(0), bytes: bytes.readDoubleBE(8) },
    lastUseMs: bytes.readDoubleBE(16),
  }
}
