/** Announcements as they travel: digests in one run of bytes, within bounds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Announcement, ANNOUNCEMENT_ITEMS_MAX } from '../../src/wire/announcement.ts'
import { decodeObject, encodeCbor, encodeObject } from '../../src/wire/cbor.ts'
import { digestBytes, sha256 } from '../../src/wire/digest.ts'

const to = { digest: sha256('a'), count: 1 }
const decode = (bytes: Uint8Array): Announcement => decodeObject(Announcement, bytes, 'it')

test('announcement: what is read is what was written, at little more than 32 bytes a digest', () => {
  const added = Array.from({ length: ANNOUNCEMENT_ITEMS_MAX }, (_, at) => sha256(`${at}`))
  const announcement = { from: null, added, gone: [sha256('b')], to }
  const bytes = encodeObject(Announcement, announcement)
  assert.deepEqual(decode(bytes), announcement)
  assert(bytes.byteLength < 33 * ANNOUNCEMENT_ITEMS_MAX)
})

test('announcement: half a digest, too many, and text are refused', () => {
  const packed = (added: unknown): Uint8Array =>
    encodeCbor({
      from: null,
      added,
      gone: new Uint8Array(),
      to: { ...to, digest: digestBytes(to.digest) },
    })
  assert.deepEqual(decode(packed(new Uint8Array(64))).added.length, 2)
  for (const wrong of [
    new Uint8Array(33),
    new Uint8Array(32 * (ANNOUNCEMENT_ITEMS_MAX + 1)),
    'x'.repeat(32),
    [digestBytes(to.digest)],
  ])
    assert.throws(() => decode(packed(wrong)), { code: 'MESH0210' })
})
