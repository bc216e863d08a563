/** Fixed objects of every hashed kind, for the golden files and as the start of hostile variants. */
import { createPrivateKey, createPublicKey } from 'node:crypto'
import type { Action } from '../../src/wire/action.ts'
import { sha256 } from '../../src/wire/digest.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import { peerIdOf, type ActionResult, type Signer } from '../../src/wire/result.ts'
import type { Tree } from '../../src/wire/tree.ts'

/** DER head of an Ed25519 private key (RFC 8410); the 32 bytes of the seed follow. */
const PKCS8_HEAD = Buffer.from('302e020100300506032b657004220420', 'hex')

/** The same key for the same text. */
export function signerOf(text: string): Signer {
  const privateKey = createPrivateKey({
    key: Buffer.concat([PKCS8_HEAD, Buffer.from(sha256(text), 'hex')]),
    format: 'der',
    type: 'pkcs8',
  })
  const publicKey = createPublicKey(privateKey)
    .export({ format: 'der', type: 'spki' })
    .subarray(-32)
  return { peerId: peerIdOf(publicKey), privateKey }
}

export const TREE: Tree = [
  { name: 'README', entry: { kind: 'file', digest: sha256('readme'), size: 6, executable: false } },
  { name: 'bin', entry: { kind: 'dir', digest: sha256('bin'), size: 300 } },
  { name: 'latest', entry: { kind: 'symlink', target: '../v1/bin' } },
  {
    name: 'run',
    entry: { kind: 'file', digest: sha256('run'), size: 4_294_967_296, executable: true },
  },
  { name: 'ünïcödé', entry: { kind: 'file', digest: sha256(''), size: 0, executable: false } },
  { name: '🎉', entry: { kind: 'symlink', target: '/usr' } },
]

export const DERIVATION: Derivation = {
  name: 'hello',
  builder: '/bin/sh',
  args: ['-c', 'cc -o $out $src'],
  env: { CFLAGS: '-O2', A: 'ä' },
  inputs: {
    src: { kind: 'entry', entry: { kind: 'dir', digest: sha256('src'), size: 123 } },
    'config.h': {
      kind: 'entry',
      entry: { kind: 'file', digest: sha256('config'), size: 6, executable: false },
    },
    lib: { kind: 'output', derivation: 'zlib', output: 'dev' },
  },
  outputs: ['out', 'dev'],
  system: 'x86_64-linux',
  hosts: ['x86_64-linux', 'aarch64-linux'],
  variants: [
    {
      host: 'aarch64-linux',
      args: ['--cross'],
      env: { CC: 'x86_64-linux-gnu-gcc' },
      inputs: { cross: { kind: 'entry', entry: { kind: 'symlink', target: '/usr' } } },
    },
  ],
  network: false,
  sealed: true,
  tools: ['flex'],
  needs: { cpus: { min: 1, max: 4 }, memoryBytes: 1, diskBytes: 2, features: ['kvm'] },
  run: { timeoutMs: 1, maxSilentMs: 2, maxLogBytes: 1024, retries: 3 },
  where: 'hello.mesh.toml:1',
}

export const ACTION: Action = {
  v: 1,
  argv: ['/bin/sh', '-c', 'cc -o $out $src'],
  env: { CFLAGS: '-O2', PATH: '/usr/bin:/bin' },
  cwd: '/build/work',
  inputs: [
    ['/build/in/lib', { kind: 'dir', digest: sha256('lib'), size: 10 }],
    ['/build/in/src', { kind: 'dir', digest: sha256('src'), size: 123 }],
    [
      '/build/work/config.h',
      { kind: 'file', digest: sha256('config'), size: 6, executable: false },
    ],
  ],
  outputs: [['out', '/build/out/out']],
  system: 'x86_64-linux',
  fingerprint: sha256('fingerprint'),
  sealed: true,
  network: false,
}

export const BUILDER = signerOf('builder')
export const OWNER = signerOf('owner')

export const RESULT: ActionResult = {
  v: 1,
  action: sha256('action'),
  jobKey: sha256('job'),
  attempt: 'a-23456789abcdefgh',
  exitCode: 0,
  outputs: {
    out: { kind: 'dir', digest: sha256('out'), size: 77 },
    bin: { kind: 'file', digest: sha256('bin'), size: 5, executable: true },
  },
  log: { digest: sha256('log'), size: 3 },
  usage: { wallMs: 1500, cpuMs: 1400, maxRssBytes: 12_345_678 },
  userland: { base: sha256('base'), tools: { flex: sha256('flex'), m4: null } },
  builder: {
    peerId: BUILDER.peerId,
    name: 'build-1',
    system: 'x86_64-linux',
    isolation: 'namespace',
  },
  endedAtWallMs: 1_700_000_000_000,
}
