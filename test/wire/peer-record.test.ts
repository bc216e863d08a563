/** Records that a node signs of itself, and tokens that an owner signs for it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { mintToken, openToken } from '../../src/wire/access-token.ts'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import { sha256 } from '../../src/wire/digest.ts'
import {
  isSignedByItself,
  PeerRecord,
  signRecord,
  type PeerFacts,
} from '../../src/wire/peer-record.ts'
import { signerOf } from './samples.ts'

const SIGNER = signerOf('node')
const OTHER = signerOf('other')
const FACTS: PeerFacts = {
  peerId: SIGNER.peerId,
  name: 'w1',
  roles: ['worker', 'store'],
  addresses: ['/ip4/10.0.0.7/tcp/7421'],
  http: 'https://10.0.0.7:7420',
  tls: sha256('certificate'),
  loopback: 'l1',
}

test('peer-record: what a node signed is known as its own, also after travelling', () => {
  const record = signRecord(FACTS, 3, SIGNER)
  assert(isSignedByItself(record))
  const travelled = decodeObject(PeerRecord, encodeObject(PeerRecord, record), 'record')
  assert.deepEqual(travelled, record)
  assert(isSignedByItself(travelled))
  const { tls, loopback, ...least } = FACTS
  assert(isSignedByItself(signRecord({ ...least, http: null }, 0, SIGNER)), `${tls} ${loopback}`)
})

test('peer-record: a change to any field, a lost signature and a foreign one are seen', () => {
  const record = signRecord(FACTS, 3, SIGNER)
  const { proof, ...facts } = record
  assert(proof !== undefined)
  const changes: Partial<PeerRecord>[] = [
    { name: 'w2' },
    { roles: ['worker'] },
    { addresses: [] },
    { http: 'https://10.0.0.8:7420' },
    { http: null },
    { tls: sha256('another') },
    { loopback: 'l2' },
    { peerId: OTHER.peerId },
    { proof: { ...proof, seq: 4 } },
    { proof: { ...proof, signature: new Uint8Array(64) } },
  ]
  for (const change of changes)
    assert(!isSignedByItself({ ...record, ...change }), JSON.stringify(change))
  assert(!isSignedByItself(facts))
  assert(!isSignedByItself(signRecord(FACTS, 3, OTHER)))
  // Of the right form, and no key.
  const nobody = `12D3KooW${'1'.repeat(44)}`
  assert(!isSignedByItself({ ...record, peerId: nobody }))
})

const HOLDER = { holder: OTHER.peerId, certificate: sha256('certificate') }

test('access-token: says what its issuer signed, in a form for a header', () => {
  const token = mintToken(HOLDER, 1_700_000_000_000, SIGNER)
  assert.match(token, /^[\w-]{1,1024}$/)
  assert.deepEqual(openToken(token), {
    v: 1,
    ...HOLDER,
    issuer: SIGNER.peerId,
    notAfterWallMs: 1_700_000_000_000,
  })
})

test('access-token: any other text is refused', () => {
  const token = mintToken(HOLDER, 1_700_000_000_000, SIGNER)
  for (const wrong of ['', 'x', token.slice(1), `${token}A`, `${token} `, 'A'.repeat(2000)])
    assert.throws(() => openToken(wrong), { code: 'MESH0210' }, wrong.slice(0, 40))
  const bytes = Buffer.from(token, 'base64url')
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, mask) => {
      const damaged = Buffer.from(bytes)
      damaged[at] = (damaged[at] ?? 0) ^ mask
      assert.throws(() => openToken(damaged.toString('base64url')), { code: 'MESH0210' })
    }),
  )
})

test('access-token, peer-record: the bytes that are signed never change', () => {
  const { proof } = signRecord(FACTS, 3, SIGNER)
  assert.equal(
    Buffer.from(proof?.signature ?? []).toString('hex'),
    'abff171174f0edab17dacb4850d01143f8e12186f57818350572cc5bb8bb22180eaa629d0699ebfd3e21f0c2b25120a339ab2059b603615b1fd042188c690f04',
  )
  assert.equal(
    mintToken(HOLDER, 1_700_000_000_000, SIGNER),
    'pWF2AWZob2xkZXJ4NDEyRDNLb29XUjJpZFNKaUNyS0Znb3FzY1hLZlhKREtpTG9neGFWSEtEblprenB1UG5LNWJmaXNzdWVyeDQxMkQzS29vV0x6R3RwaEtKVHBNYW5XQnNGMjF2S25zc3NrQnVOVHBZVUo5dXpFWlRFaExQa2NlcnRpZmljYXRlWCAD1m3QiDXByj8SjM6s0fMayUFjCWsg9EWuhChbwIMtcm5ub3RBZnRlcldhbGxNcxsAAAGLz-VoAK4x1f2XDdaovBFZ9IBxIlcgdC27ooVQ8yxgwqgY71G5A5DzksiiUvjD3rBDiaylqxgtS3PO8Q0QiSPHVtBXfwI',
  )
})
