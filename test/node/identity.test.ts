/** The key of a node: made once, kept private, the same peer id as libp2p's. */
import assert from 'node:assert/strict'
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { systemRandom } from '../../src/base/random.ts'
import { identityOf, openIdentity } from '../../src/node/process/identity.ts'
import { PeerId } from '../../src/wire/names.ts'
import { publicKeyOf } from '../../src/wire/result.ts'

const random = systemRandom()

async function temporary() {
  const directory = await mkdtemp(join(tmpdir(), 'mesh-identity-'))
  return { directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
}

test('identity: made at the first start, the same ever after, for its owner alone', async () => {
  await using place = await temporary()
  const first = await openIdentity({ random }, place)
  assert(PeerId.safeParse(first.peerId).success)
  assert.equal(first.signer.peerId, first.peerId)
  const again = await openIdentity({ random }, place)
  assert.deepEqual([again.peerId, again.seed], [first.peerId, first.seed])
  const modeOf = async (path: string) => (await stat(join(place.directory, path))).mode & 0o777
  assert.deepEqual([await modeOf('identity'), await modeOf('identity/key')], [0o700, 0o600])
  assert.deepEqual(
    new Uint8Array(await readFile(join(place.directory, 'identity/key'))),
    first.seed,
  )
})

test('identity: libp2p derives the same peer id from the seed', async () => {
  for (let round = 0; round < 5; round++) {
    const identity = identityOf(random.bytes(32))
    const key = await generateKeyPairFromSeed('Ed25519', identity.seed)
    assert.equal(identity.peerId, peerIdFromPrivateKey(key).toString())
    assert.deepEqual(
      publicKeyOf(identity.peerId).export({ format: 'der', type: 'spki' }).subarray(-32),
      Buffer.from(key.publicKey.raw),
    )
  }
})

test('identity: a draft that a killed daemon left behind is replaced', async () => {
  await using place = await temporary()
  await openIdentity({ random }, place)
  const key = join(place.directory, 'identity/key')
  await rm(key)
  await writeFile(join(place.directory, 'identity/key.new'), 'half')
  assert.equal((await openIdentity({ random }, place)).seed.length, 32)
})

test('identity: a key of another length or open to others is refused', async () => {
  await using place = await temporary()
  await openIdentity({ random }, place)
  const key = join(place.directory, 'identity/key')
  await writeFile(key, 'short')
  await assert.rejects(openIdentity({ random }, place), {
    code: 'MESH0104',
    where: key,
    message: 'the key of this node has 5 bytes instead of 32',
  })
  await chmod(key, 0o640)
  await assert.rejects(openIdentity({ random }, place), {
    code: 'MESH0104',
    message: /mode 640 instead of 600/,
  })
  await chmod(key, 0o600)
  await chmod(join(place.directory, 'identity'), 0o750)
  await assert.rejects(openIdentity({ random }, place), {
    code: 'MESH0104',
    message: /mode 750 instead of 700/,
  })
})
