/**
 * Who this node is: an Ed25519 key in `DIR/identity/key`, made at the first start.
 *
 * The file holds the 32 bytes of the seed and nothing else. Whoever has it is this node, so only its
 * owner may read it. libp2p derives the same peer id from the same seed.
 */
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { mkdir, open, rename, stat, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import { peerIdOf, type Signer } from '../../wire/result.ts'

const SEED_BYTES = 32
/** DER head of an Ed25519 PKCS #8 private key (RFC 8410); the seed follows. */
const PKCS8_HEAD = Buffer.from('302e020100300506032b657004220420', 'hex')

export interface Identity {
  /** 32 bytes: the private key. */
  readonly seed: Uint8Array
  readonly signer: Signer
  readonly peerId: string
}

/**
 * Reads the identity in a data directory, or makes one. The caller holds the directory exclusively.
 * Throws MESH0104 for a key of the wrong length, or one that others may read.
 */
export async function openIdentity(
  deps: { readonly random: Random },
  options: { readonly directory: string },
): Promise<Identity> {
  const directory = join(options.directory, 'identity')
  await mkdir(directory, { mode: 0o700, recursive: true })
  refuseOthers(directory, await stat(directory), '700')
  const path = join(directory, 'key')
  return identityOf((await readSeed(path)) ?? (await makeSeed(deps.random, directory, path)))
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
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
  await using _ = file
  const { mode, size } = await file.stat()
  refuseOthers(path, { mode }, '600')
  if (size !== SEED_BYTES)
    throw new MeshError(
      'MESH0104',
      `the key of this node has ${size} bytes instead of ${SEED_BYTES}`,
      {
        where: path,
        hints: [
          'restore it from a backup',
          'or remove it: the node then gets a new key, and is a stranger to those that admitted the old one',
        ],
      },
    )
  return new Uint8Array(await file.readFile())
}

/** After a crash at any moment there is the whole key or none. */
async function makeSeed(random: Random, directory: string, path: string): Promise<Uint8Array> {
  const seed = new Uint8Array(random.bytes(SEED_BYTES))
  const draft = join(directory, 'key.new')
  {
    await using file = await open(draft, 'w', 0o600)
    await file.writeFile(seed)
    await file.sync()
  }
  await rename(draft, path)
  await using parent = await open(directory, 'r')
  await parent.sync()
  return seed
}

function refuseOthers(path: string, { mode }: { readonly mode: number }, right: string): void {
  if ((mode & 0o077) === 0) return
  const observed = (mode & 0o777).toString(8)
  throw new MeshError(
    'MESH0104',
    `other users have access to the key of this node: mode ${observed} instead of ${right}`,
    {
      where: path,
      hints: [
        `chmod ${right} ${path}`,
        'and if somebody may have read the key, remove it: the node then gets a new one',
      ],
    },
  )
}
