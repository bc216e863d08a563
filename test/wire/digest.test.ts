/** One id in three spellings. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  cidOf,
  digestBytes,
  digestFromBytes,
  EMPTY_DIGEST,
  Hasher,
  isDigest,
  parseCid,
  sha256,
} from '../../src/wire/digest.ts'

test('digest: it is what sha256sum prints', () => {
  assert.equal(EMPTY_DIGEST, 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
  assert.equal(sha256('abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
})

test('digest: its CIDs are those of other programs', () => {
  // `ipfs add --cid-version 1` of an empty file.
  assert.equal(cidOf(EMPTY_DIGEST), 'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku')
  assert.match(cidOf(EMPTY_DIGEST, 'object'), /^bafyrei/)
})

test('digest: every spelling is read back', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 32, maxLength: 32 }),
      fc.constantFrom('raw' as const, 'object' as const),
      (bytes, kind) => {
        const digest = digestFromBytes(bytes)
        assert.deepEqual(digestBytes(digest), bytes)
        assert.deepEqual(parseCid(cidOf(digest, kind)), { digest, kind })
        assert.deepEqual(parseCid(digest), { digest, kind: 'raw' })
      },
    ),
  )
})

test('digest: bytes of another length are refused', () => {
  for (const length of [0, 31, 33])
    assert.throws(() => digestFromBytes(new Uint8Array(length)), { code: 'MESH0210' })
})

test('digest: a part of a larger buffer is read where it is', () => {
  const bytes = Buffer.concat([Buffer.alloc(7, 1), digestBytes(EMPTY_DIGEST), Buffer.alloc(7, 2)])
  assert.equal(digestFromBytes(bytes.subarray(7, 39)), EMPTY_DIGEST)
})

test('digest: upper case, other lengths and other alphabets are no digests', () => {
  for (const text of [
    '',
    EMPTY_DIGEST.toUpperCase(),
    EMPTY_DIGEST.slice(1),
    `${EMPTY_DIGEST}0`,
    `${EMPTY_DIGEST}\n`,
    'g'.repeat(64),
  ]) {
    assert.equal(isDigest(text), false)
    assert.equal(parseCid(text), undefined)
  }
})

test('digest: CIDs of other versions, hashes and codecs are not ours', () => {
  for (const text of [
    'QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG', // version 0
    'bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi', // dag-pb
    'bafkqaaa', // identity hash
    'b'.repeat(101),
    'hello',
  ])
    assert.equal(parseCid(text), undefined, text)
})

test('digest: a stream gives the digest of its whole', () => {
  const hasher = new Hasher()
  for (const piece of ['a', '', 'bc']) hasher.update(Buffer.from(piece))
  assert.equal(hasher.digest(), sha256('abc'))
})
