/** Chunk lists: one encoding, against a file that never changes, and what is refused. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  CHUNKS_REPLY_BYTES_MAX,
  decodeCasFrame,
  encodeCasMessage,
} from '../../src/wire/cas-messages.ts'
import { decodeCbor, encodeCbor, OBJECT_BYTES_MAX } from '../../src/wire/cbor.ts'
import {
  CHUNK_BYTES_MAX,
  CHUNK_BYTES_MIN,
  CHUNKED_BYTES_MAX,
  CHUNKED_BYTES_MIN,
  CHUNKS_MAX,
  decodeChunkList,
  encodeChunkList,
  isChunked,
  type ChunkList,
} from '../../src/wire/chunk-list.ts'
import { digestBytes, sha256 } from '../../src/wire/digest.ts'
import { CAS_FRAME_BYTES_MAX } from '../../src/wire/frame-channel.ts'

/** A list of chunks with these lengths. */
function listOf(lengths: readonly number[]): ChunkList {
  let size = 0
  const chunks = lengths.map((length, at) => {
    size += length
    return { digest: sha256(`chunk ${at}`), offset: size - length, length }
  })
  return { digest: sha256('whole'), size, chunks }
}

const refused = { code: 'MESH0210' }

test('chunk-list: its bytes never change', async () => {
  const list = listOf([CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, 300_000, 1])
  const text = await readFile(
    new URL('../fixtures/golden/chunk-list-v1.txt', import.meta.url),
    'utf8',
  )
  const [digest, hex] = text.split('\n')
  const bytes = encodeChunkList(list)
  assert.equal(Buffer.from(bytes).toString('hex'), hex)
  assert.equal(sha256(bytes), digest)
  assert.deepEqual(decodeChunkList(bytes), list)
})

test('chunk-list: any list comes out as it went in', () => {
  const anyLength = fc.integer({ min: CHUNK_BYTES_MIN, max: CHUNK_BYTES_MAX })
  const anyLast = fc.integer({ min: 1, max: CHUNK_BYTES_MAX })
  fc.assert(
    fc.property(fc.array(anyLength, { maxLength: 40 }), anyLast, (lengths, last) => {
      const list = listOf([...lengths, last])
      assert.deepEqual(decodeChunkList(encodeChunkList(list)), list)
    }),
  )
  assert.deepEqual(decodeChunkList(encodeChunkList(listOf([]))).chunks, [])
})

test('chunk-list: the longest possible fits into an object, whatever its lengths', () => {
  assert(isChunked(CHUNKED_BYTES_MAX) && !isChunked(CHUNKED_BYTES_MAX + 1))
  assert(isChunked(CHUNKED_BYTES_MIN + 1) && !isChunked(CHUNKED_BYTES_MIN))
  const longest = listOf(Array.from({ length: CHUNKS_MAX }, () => CHUNK_BYTES_MIN))
  assert.equal(longest.size, CHUNKED_BYTES_MAX)
  const bytes = encodeChunkList(longest)
  assert(bytes.byteLength <= OBJECT_BYTES_MAX)
  assert.equal(decodeChunkList(bytes).chunks.length, CHUNKS_MAX)
  const one = { digest: sha256('one too many'), offset: longest.size, length: 1 }
  const over = { ...longest, size: longest.size + 1, chunks: [...longest.chunks, one] }
  assert.throws(() => encodeChunkList(over))
})

test('chunk-list: a hostile one is refused', () => {
  const good = { v: 1, whole: digestBytes(sha256('whole')), size: 300_005 }
  const chunk = (length: unknown): unknown => [digestBytes(sha256('a')), length]
  assert.equal(
    decodeChunkList(encodeCbor({ ...good, chunks: [chunk(300_000), chunk(5)] })).size,
    300_005,
  )
  const hostile: Record<string, unknown> = {
    'too small a sum': { ...good, chunks: [chunk(300_000)] },
    'too big a sum': { ...good, chunks: [chunk(300_000), chunk(6)] },
    'a short chunk before the last': { ...good, chunks: [chunk(5), chunk(300_000)] },
    'too long a chunk': {
      ...good,
      size: CHUNK_BYTES_MAX + 1,
      chunks: [chunk(CHUNK_BYTES_MAX + 1)],
    },
    'an empty chunk': { ...good, chunks: [chunk(300_005), chunk(0)] },
    'a negative length': { ...good, chunks: [chunk(300_010), chunk(-5)] },
    'half a byte': { ...good, size: 1, chunks: [chunk(0.5), chunk(0.5)] },
    'a length as text': { ...good, chunks: [chunk('300005')] },
    'a short digest': { ...good, chunks: [[new Uint8Array(31), 300_005]] },
    'three fields': { ...good, chunks: [[digestBytes(sha256('a')), 300_005, 0]] },
    'no list': { ...good, chunks: { 0: chunk(300_005) } },
    'too big a blob': { ...good, size: CHUNKED_BYTES_MAX + 1, chunks: [] },
    'another version': { ...good, v: 2, chunks: [chunk(300_005)] },
    'one more key': { ...good, chunks: [chunk(300_005)], more: 1 },
  }
  for (const [what, value] of Object.entries(hostile))
    assert.throws(() => decodeChunkList(encodeCbor(value)), refused, what)
  const bytes = encodeChunkList(listOf([300_000]))
  for (let length = 0; length < bytes.byteLength; length++)
    assert.throws(() => decodeChunkList(bytes.subarray(0, length)), refused)
  assert.throws(() => decodeChunkList(Buffer.concat([bytes, Buffer.of(0)])), refused)
  assert.throws(() => decodeChunkList(new Uint8Array(OBJECT_BYTES_MAX + 1)), refused)
})

test('chunk-list: no flipped bit leaves another valid list of the same blob but in a digest', () => {
  const list = listOf([100_000, 200_000, 7])
  const bytes = encodeChunkList(list)
  for (let bit = 0; bit < bytes.byteLength * 8; bit++) {
    const flipped = Uint8Array.from(bytes)
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    let decoded: ChunkList
    try {
      decoded = decodeChunkList(flipped)
    } catch (error) {
      assert(error instanceof Error && 'code' in error && error.code === 'MESH0210', `bit ${bit}`)
      continue
    }
    assert.deepEqual(
      decoded.chunks.map(({ length }) => length),
      [100_000, 200_000, 7],
    )
  }
})

test('chunk-list: travels in parts that fit into a frame', () => {
  const ask = { type: 'chunks', id: 7, digest: sha256('whole'), offset: 512 * 1024 } as const
  assert.deepEqual(decodeCasFrame(encodeCasMessage(ask)), ask)
  const bytes = new Uint8Array(CHUNKS_REPLY_BYTES_MAX).fill(1)
  const reply = { type: 'chunksReply', id: 7, size: OBJECT_BYTES_MAX, bytes } as const
  const frame = encodeCasMessage(reply)
  assert(frame.byteLength < CAS_FRAME_BYTES_MAX)
  assert.deepEqual(decodeCasFrame(frame), reply)
  assert.deepEqual([frame[0], encodeCasMessage(ask)[0]], [16, 15])
  const tooMuch = encodeCbor({ id: 7, size: 1, bytes: new Uint8Array(CHUNKS_REPLY_BYTES_MAX + 1) })
  assert.throws(() => decodeCasFrame(Buffer.concat([Buffer.of(16), tooMuch])), refused)
  assert(decodeCbor(tooMuch, 'reply'), 'it is refused for its length')
})
