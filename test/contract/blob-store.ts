/** What every blob store promises; run on each implementation by its own test file. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, symlinkSync, existsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { BlobReader, BlobStore } from '../../src/store/blob-store.ts'
import { EMPTY_DIGEST, sha256, type BlobRef } from '../../src/wire/digest.ts'

export const refOf = (bytes: Uint8Array): BlobRef => ({
  digest: sha256(bytes),
  size: bytes.byteLength,
})
export const text = (value: string): Uint8Array => Buffer.from(value)

/** Bytes that look random and are the same in every run. */
export function bytesOf(size: number, seed = 1): Uint8Array {
  const bytes = Buffer.alloc(size)
  let state = seed * 2654435761
  for (let at = 0; at < size; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[at] = state >>> 24
  }
  return bytes
}

export async function* inPieces(
  bytes: Uint8Array,
  pieceBytes = 50_000,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += pieceBytes)
    yield bytes.subarray(at, at + pieceBytes)
}

export async function readAll(
  reader: AsyncIterable<Uint8Array> | undefined,
): Promise<Buffer | undefined> {
  return reader === undefined ? undefined : Buffer.concat(await toArray(reader))
}

export async function toArray<T>(items: AsyncIterable<T>): Promise<T[]> {
  const array: T[] = []
  for await (const item of items) array.push(item)
  return array
}

async function* broken(): AsyncGenerator<Uint8Array> {
  yield bytesOf(700_000)
  throw new Error('cable cut')
}

const byDigest = (a: BlobRef, b: BlobRef): number => (a.digest < b.digest ? -1 : 1)

const PIECE = 512 * 1024

export function blobStoreContract(name: string, open: () => Promise<BlobStore>): void {
  const withStore = (what: string, run: (store: BlobStore) => Promise<void>): void => {
    test(`${name}: ${what}`, async () => {
      await using store = await open()
      await run(store)
    })
  }

  withStore('gives back what was put, of any size', async (store) => {
    for (const size of [
      0,
      1,
      64 * 1024 - 1,
      64 * 1024,
      64 * 1024 + 1,
      PIECE - 1,
      PIECE,
      PIECE + 1,
      3_000_000,
    ]) {
      const bytes = bytesOf(size)
      assert.deepEqual(await store.put(inPieces(bytes)), refOf(bytes))
      assert.deepEqual(await store.put(bytes), refOf(bytes))
      const { digest } = refOf(bytes)
      assert(await store.has(digest))
      assert.equal(await store.sizeOf(digest), size)
      assert.deepEqual(Buffer.from((await store.read(digest, size)) ?? []), bytes)
      assert.deepEqual(await readAll(await store.open(digest)), bytes)
    }
    assert(await store.has(EMPTY_DIGEST))
  })

  withStore('reads ranges', async (store) => {
    const bytes = bytesOf(1_500_000)
    const { digest } = await store.put(bytes)
    for (const [offsetBytes, lengthBytes] of [
      [0, 1],
      [1, 1_499_999],
      [PIECE - 1, 2],
      [1_499_999, 5],
      [1_500_000, 1],
      [2_000_000, 1],
    ] as const) {
      const reader: BlobReader | undefined = await store.open(digest, { offsetBytes, lengthBytes })
      assert.equal(reader?.sizeBytes, 1_500_000)
      assert.deepEqual(
        await readAll(reader),
        bytes.subarray(offsetBytes, offsetBytes + lengthBytes),
      )
    }
  })

  withStore('does not have what was not put', async (store) => {
    const absent = refOf(text('absent'))
    assert.equal(await store.has(absent.digest), false)
    assert.equal(await store.sizeOf(absent.digest), undefined)
    assert.equal(await store.open(absent.digest), undefined)
    assert.equal(await store.read(absent.digest, 100), undefined)
    assert.equal(await store.pathOf(absent.digest, false), undefined)
    assert.equal(await store.delete(absent.digest), false)
    const present = await store.put(text('present'))
    assert.deepEqual(await store.missing([absent, present, absent]), [absent])
  })

  withStore('refuses bytes of another name and keeps nothing of them', async (store) => {
    const right = bytesOf(200_000)
    const wrong = Buffer.from(right)
    wrong[199_999] = (wrong[199_999] ?? 0) ^ 1
    for (const bytes of [wrong, right.subarray(1), Buffer.concat([right, right])])
      for (const source of [bytes, inPieces(bytes)])
        await assert.rejects(store.put(source, refOf(right)), { code: 'MESH0502' })
    assert.equal(await store.has(refOf(right).digest), false)
    assert.equal(await store.has(refOf(wrong).digest), false)
    assert.deepEqual(store.stats(), { count: 0, bytes: 0 })
  })

  withStore('ends a stream that is too long at once', async (store) => {
    let given = 0
    const endless = async function* (): AsyncGenerator<Uint8Array> {
      for (;;) {
        given++
        yield new Uint8Array(1000)
      }
    }
    await assert.rejects(store.put(endless(), refOf(bytesOf(10_000))), { code: 'MESH0502' })
    assert(given <= 11)
  })

  withStore('passes on the error of a stream and keeps nothing', async (store) => {
    await assert.rejects(store.put(broken()), /cable cut/)
    assert.deepEqual(store.stats(), { count: 0, bytes: 0 })
  })

  withStore('takes one blob from many writers at once', async (store) => {
    const bytes = bytesOf(300_000)
    await Promise.all(Array.from({ length: 8 }, () => store.put(inPieces(bytes), refOf(bytes))))
    assert.deepEqual(store.stats(), { count: 1, bytes: 300_000 })
    assert.deepEqual(await readAll(await store.open(refOf(bytes).digest)), bytes)
  })

  withStore('an open reader reads on when the blob is deleted', async (store) => {
    const bytes = bytesOf(2_000_000)
    const { digest } = await store.put(bytes)
    const reader = await store.open(digest)
    assert.equal(await store.delete(digest), true)
    assert.equal(await store.has(digest), false)
    assert.equal(await store.open(digest), undefined)
    assert.deepEqual(await readAll(reader), bytes)
    assert.deepEqual(store.stats(), { count: 0, bytes: 0 })
  })

  withStore('a reader may be left early or not begun', async (store) => {
    const { digest } = await store.put(bytesOf(2_000_000))
    for await (const piece of (await store.open(digest)) ?? []) {
      assert(piece.byteLength > 0)
      break
    }
    await (await store.open(digest))?.[Symbol.asyncDispose]()
  })

  withStore('reads no more into memory than allowed', async (store) => {
    const { digest } = await store.put(bytesOf(1000))
    await assert.rejects(store.read(digest, 999), { code: 'MESH0211' })
  })

  withStore('lists what it has', async (store) => {
    const refs = [await store.put(text('a')), await store.put(text('bc'))]
    const listed = (await toArray(store.list())).map(({ digest, size }) => ({ digest, size }))
    assert.deepEqual(listed.toSorted(byDigest), refs.toSorted(byDigest))
    assert.deepEqual(store.stats(), { count: 2, bytes: 3 })
  })

  withStore('takes files, moved or copied, and no links', async (store) => {
    const directory = mkdtempSync(join(tmpdir(), 'mesh-'))
    try {
      for (const size of [0, 10, 700_000]) {
        const bytes = bytesOf(size, 7)
        for (const move of [false, true]) {
          await store.delete(refOf(bytes).digest)
          const path = join(directory, 'file')
          writeFileSync(path, bytes)
          assert.deepEqual(await store.putFile(path, { move }), refOf(bytes))
          assert.equal(existsSync(path), !move)
          assert.deepEqual(Buffer.from((await store.read(refOf(bytes).digest, size)) ?? []), bytes)
        }
      }
      symlinkSync('/etc/passwd', join(directory, 'link'))
      await assert.rejects(store.putFile(join(directory, 'link'), { move: false }), {
        code: 'MESH0207',
      })
      await assert.rejects(store.putFile(directory, { move: false }), { code: 'MESH0207' })
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
}
