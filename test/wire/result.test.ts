/** Results are claims: who signs, what is signed, and what a reader demands. */
import assert from 'node:assert/strict'
import { sign } from 'node:crypto'
import { test } from 'node:test'
import { decodeCbor, encodeCbor } from '../../src/wire/cbor.ts'
import { sha256 } from '../../src/wire/digest.ts'
import {
  ActionResultJson,
  countersignResult,
  decodeSignedResult,
  encodeSignedResult,
  openResult,
  peerIdOf,
  publicKeyOf,
  signResult,
  type SignedResult,
} from '../../src/wire/result.ts'
import { PeerId } from '../../src/wire/names.ts'
import { BUILDER, OWNER, RESULT, signerOf } from './samples.ts'

const refused = { code: 'MESH0210' }
const builderOnly = { countersigned: false }
const both = { countersigned: true }
const signed = signResult(RESULT, BUILDER)
const countersigned = countersignResult(signed, OWNER)

function flip(bytes: Uint8Array, at: number): Uint8Array<ArrayBuffer> {
  const copy = Uint8Array.from(bytes)
  copy[at] = (copy[at] ?? 0) ^ 1
  return copy
}

test('result: with both signatures it is opened', () => {
  assert.deepEqual(openResult(countersigned, both), RESULT)
  assert.deepEqual(openResult(signed, builderOnly), RESULT)
})

test('result: without the countersignature that is asked for it is refused', () => {
  assert.throws(() => openResult(signed, both), refused)
})

test('result: signed by another than the builder that it names it is refused', () => {
  assert.throws(() => openResult(signResult(RESULT, OWNER), builderOnly), refused)
  const pretended: SignedResult = {
    ...signed,
    builder: { ...signResult(RESULT, OWNER).builder, peerId: BUILDER.peerId },
  }
  assert.throws(() => openResult(pretended, builderOnly), refused)
})

test('result: any changed byte of body or signatures is noticed', () => {
  for (let at = 0; at < signed.body.byteLength; at += 7)
    assert.throws(
      () => openResult({ ...countersigned, body: flip(signed.body, at) }, both),
      refused,
      `body byte ${at}`,
    )
  for (let at = 0; at < 64; at += 9) {
    const builder = {
      ...countersigned.builder,
      signature: flip(countersigned.builder.signature, at),
    }
    assert.throws(() => openResult({ ...countersigned, builder }, both), refused)
    const { owner } = countersigned
    assert(owner !== undefined)
    assert.throws(
      () =>
        openResult(
          { ...countersigned, owner: { ...owner, signature: flip(owner.signature, at) } },
          builderOnly,
        ),
      refused,
    )
  }
})

test('result: a signature for one purpose is none for another', () => {
  // The builder's signature is no countersignature, nor the other way round.
  assert.throws(() => openResult({ ...signed, owner: signed.builder }, builderOnly), refused)
  const { owner } = countersignResult(signed, BUILDER)
  assert(owner !== undefined)
  assert.throws(() => openResult({ ...signed, builder: owner }, builderOnly), refused)
})

test('result: a countersignature does not hold for another body or builder', () => {
  const other = signResult({ ...RESULT, exitCode: 1 }, BUILDER)
  assert(countersigned.owner !== undefined)
  assert.throws(() => openResult({ ...other, owner: countersigned.owner }, both), refused)
})

test('result: a body that is not canonical or not a result is refused even with good signatures', () => {
  const value = decodeCbor(signed.body, 'result')
  assert(typeof value === 'object')
  for (const changes of [{}, { more: 1 }, { exitCode: 256 }, { attempt: 'x' }, { v: 2 }]) {
    const body = encodeCbor({ ...value, ...changes })
    const signature = new Uint8Array(
      sign(null, Buffer.concat([Buffer.from('mesh result v1\0'), body]), BUILDER.privateKey),
    )
    const open = (): unknown =>
      openResult({ body, builder: { peerId: BUILDER.peerId, signature } }, builderOnly)
    if (Object.keys(changes).length === 0) assert.deepEqual(open(), RESULT)
    else assert.throws(open, refused, JSON.stringify(changes))
  }
})

test('result: signed results survive the wire; malformed ones are refused', () => {
  assert.deepEqual(decodeSignedResult(encodeSignedResult(countersigned)), countersigned)
  for (const value of [
    {},
    { body: 'x' },
    { ...signed, builder: { peerId: BUILDER.peerId, signature: new Uint8Array(63) } },
    { ...signed, body: new Uint8Array(256 * 1024 + 1) },
  ])
    assert.throws(() => decodeSignedResult(encodeCbor(value)), refused)
})

test('result: it survives JSON', () => {
  assert.deepEqual(ActionResultJson.parse(JSON.parse(JSON.stringify(RESULT))), RESULT)
})

test('peer-id: it is the key, and only of Ed25519', () => {
  const { peerId } = signerOf('anybody')
  assert(PeerId.safeParse(peerId).success)
  const key = publicKeyOf(peerId).export({ format: 'der', type: 'spki' }).subarray(-32)
  assert.equal(peerIdOf(key), peerId)
  for (const text of [
    '',
    '12D3KooW',
    'QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG',
    peerIdOf(key).slice(0, -1),
    `${peerId}1`,
    '0OIl',
  ])
    assert.throws(() => publicKeyOf(text), Error, text)
  // The peer id of the key of RFC 8032, test 1, as js-libp2p prints it.
  assert.equal(
    peerIdOf(
      Buffer.from('d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a', 'hex'),
    ),
    '12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV',
  )
  assert.notEqual(sha256(peerId), sha256(BUILDER.peerId))
})
