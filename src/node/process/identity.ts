/**
 * Who this node is: an Ed25519 key in `DIR/identity/key`, made at the first start.
 *
 * The file holds the 32 bytes of the seed and nothing else. Whoever has it is this node, so only its
 * owner may read it. libp2p derives the same peer id from the same seed.
 */
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { join } from 'node:path'
import { MeshError } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import { peerIdOf, type Signer } from '../../wire/result.ts'
import { openPrivateDirectory, readPrivate, writePrivate } from './private-file.ts'

const KEY_FILE = 'key'
const SEED_BYTES = 32
/** DER head of an Ed25519 PKCS #8 private key (RFC 8410); the seed follows. */
const PKCS8_HEAD = Buffer.from('302e020100300506032b657004220420', 'hex')

export interface Identity {
  /** 32 bytes: the private key. */
  readonly seed: Uint8Array
  readonly signer: Signer
  readonly peerId: string
}

/** Where a node keeps what it proves itself with, and nothing else. */
export const identityDirectory = (dataDirectory: string): string => join(dataDirectory, 'identity')

/**
 * Reads the identity in a data directory, or makes one. The caller holds the directory exclusively.
 * Throws MESH0104 for a key of the wrong length, or one that others may read.
 */
export async function openIdentity(
  deps: { readonly random: Random },
  options: { readonly directory: string },
): Promise<Identity> {
  const directory = identityDirectory(options.directory)
  await openPrivateDirectory(directory)
  const seed = await readSeed(join(directory, KEY_FILE))
  return identityOf(seed ?? (await makeSeed(deps.random, directory)))
}

export function identityOf(seed: Uint8Array): Identity {
  const privateKey = createPrivateKey({
    key: Buffer.concat([PKCS8_HEAD, seed]),
    format: 'der',
    type: 'pkcs8',
  })
  const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' })
  const peerId = peerIdOf(spki.subarray(-32))
  return { seed, signer: { peerId, privateKey }, peerId }
}

/** Undefined when there is none yet. */
async function readSeed(path: string): Promise<Uint8Array | undefined> {
  const seed = await readPrivate(path)
  if (seed !== undefined && seed.byteLength !== SEED_BYTES)
    throw new MeshError(
      'MESH0104',
      `the key of this node has ${seed.byteLength} bytes instead of ${SEED_BYTES}`,
      {
        where: path,
        hints: [
          'restore it from a backup',
          'or remove it: the node then gets a new key, and is a stranger to those that admitted the old one',
        ],
      },
    )
  return seed === undefined ? undefined : new Uint8Array(seed)
}

async function makeSeed(random: Random, directory: string): Promise<Uint8Array> {
  const seed = new Uint8Array(random.bytes(SEED_BYTES))
  await writePrivate(directory, KEY_FILE, seed)
  return seed
}
