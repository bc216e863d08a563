/** Certificates, signed records, tokens: what a node proves itself with, and whom it believes. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { systemRandom } from '../../src/base/random.ts'
import { selfSigned } from '../../src/node/data-plane/certificate.ts'
import { openRecordSigner } from '../../src/node/data-plane/own-record.ts'
import { PeerBook } from '../../src/node/data-plane/peer-book.ts'
import { openTlsIdentity } from '../../src/node/data-plane/tls-identity.ts'
import { Tokens } from '../../src/node/data-plane/tokens.ts'
import { loopbackId } from '../../src/node/process/loopback-id.ts'
import { mintToken, TOKEN_MS } from '../../src/wire/access-token.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { isSignedByItself, signRecord, type PeerFacts } from '../../src/wire/peer-record.ts'
import { signerOf } from '../wire/samples.ts'
import { never } from './hosts.ts'
import { ManualClock } from './manual-clock.ts'

const random = systemRandom()
const log = pino({ level: 'silent' })
const NODE = signerOf('node')
const ROOT = signerOf('root')
const DAY_MS = 24 * 3600_000
const YEAR_MS = 365 * DAY_MS

async function temporary() {
  const directory = await mkdtemp(join(tmpdir(), 'mesh-data-plane-'))
  return { directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
}

/** Its wall clock is that of the test; what is monotonic begins at 0. */
class WallClock extends ManualClock {
  wall: number
  constructor(wallMs: number) {
    super()
    this.wall = wallMs
  }
  override wallMs(): number {
    return this.wall
  }
}

function hasOpenssl(): boolean {
  try {
    execFileSync('openssl', ['version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

test('certificate: OpenSSL reads what was said, on both sides of 2050', (t) => {
  if (!hasOpenssl()) {
    t.skip('openssl is not installed')
    return
  }
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const der = selfSigned(keys, {
    name: NODE.peerId,
    serial: Buffer.from('ff00', 'hex'),
    notBeforeWallMs: Date.UTC(2026, 0, 2, 3, 4, 5),
    notAfterWallMs: Date.UTC(2051, 10, 12, 13, 14, 15),
  })
  const openssl = (...args: readonly string[]): string =>
    execFileSync('openssl', ['x509', '-inform', 'der', '-noout', ...args], {
      input: der,
      encoding: 'utf8',
    })
  assert.equal(
    openssl('-subject', '-issuer', '-serial', '-dates', '-fingerprint', '-sha256'),
    [
      `subject=CN = ${NODE.peerId}`,
      `issuer=CN = ${NODE.peerId}`,
      'serial=01FF00',
      'notBefore=Jan  2 03:04:05 2026 GMT',
      'notAfter=Nov 12 13:14:15 2051 GMT',
      `sha256 Fingerprint=${sha256(der)
        .toUpperCase()
        .replaceAll(/(..)(?!$)/g, '$1:')}`,
      '',
    ].join('\n'),
  )
  assert.match(openssl('-text'), /ecdsa-with-SHA256[\s\S]*prime256v1/)
  assert(new X509Certificate(der).verify(keys.publicKey))
})

test('tls-identity: made once, for its owner alone, and made anew before it ends', async () => {
  await using place = await temporary()
  const clock = new WallClock(Date.UTC(2026, 0, 1))
  const open = () =>
    openTlsIdentity({ clock, random }, { directory: place.directory, peerId: NODE.peerId })
  const first = await open()
  const path = join(place.directory, 'tls.pem')
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  const certificate = new X509Certificate(first.certificate)
  assert.equal(sha256(certificate.raw), first.digest)
  assert(certificate.checkPrivateKey(createPrivateKey(first.key)))
  clock.wall += 7 * YEAR_MS
  assert.deepEqual(await open(), first)
  clock.wall += 2 * YEAR_MS
  const renewed = await open()
  assert.notEqual(renewed.digest, first.digest)
  assert(new X509Certificate(renewed.certificate).validToDate.getTime() > clock.wall + 9 * YEAR_MS)

  await chmod(path, 0o644)
  await assert.rejects(open(), { code: 'MESH0104', message: /mode 644 instead of 600/ })
})

test('tls-identity: a damaged file, and a key that is not that of the certificate, are replaced', async () => {
  await using place = await temporary()
  const clock = new WallClock(Date.UTC(2026, 0, 1))
  const open = () =>
    openTlsIdentity({ clock, random }, { directory: place.directory, peerId: NODE.peerId })
  const first = await open()
  const path = join(place.directory, 'tls.pem')
  const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const whole = await readFile(path, 'utf8')
  const cases = {
    empty: '',
    'cut off': whole.slice(0, 300),
    'another key': `${other.export({ format: 'pem', type: 'pkcs8' }).toString()}${first.certificate}`,
  }
  for (const [name, text] of Object.entries(cases)) {
    await writeFile(path, text)
    const next = await open()
    assert.notEqual(next.digest, first.digest, name)
    assert.deepEqual(await open(), next, name)
  }
})

const FACTS: PeerFacts = {
  peerId: NODE.peerId,
  name: 'w1',
  roles: ['worker'],
  addresses: ['/ip4/127.0.0.1/tcp/7421', '/ip4/10.0.0.7/tcp/7421'],
  http: 'http://127.0.0.1:7420',
  tls: sha256('certificate'),
  loopback: 'there',
}

test('own-record: what is said later has a higher number, also when the clock was set back', async () => {
  await using place = await temporary()
  const clock = new WallClock(Date.UTC(2026, 0, 1))
  const open = () => openRecordSigner({ clock, signer: NODE }, place)
  const seqs: number[] = []
  const sign = await open()
  for (const name of ['w1', 'w2', 'w2', 'w1']) {
    const record = sign({ ...FACTS, name })
    assert(isSignedByItself(record))
    seqs.push(record.proof?.seq ?? NaN)
  }
  assert.equal(seqs[1], seqs[2], 'the same facts are the same record')
  clock.wall = 0
  seqs.push((await open())(FACTS).proof?.seq ?? NaN)
  clock.wall = Date.UTC(2027, 0, 1)
  seqs.push((await open())(FACTS).proof?.seq ?? NaN)
  assert.deepEqual(
    seqs,
    seqs.toSorted((a, b) => a - b),
  )
  assert.equal(new Set(seqs).size, 5)
  await writeFile(join(place.directory, 'record-seq'), 'no number', { mode: 0o600 })
  assert.equal((await open())(FACTS).proof?.seq, clock.wall)
})

test('peer-book: only what a node signed itself is used, and the newest of it', () => {
  const lines: string[] = []
  const book = new PeerBook(
    { log: pino({}, { write: (line: string) => void lines.push(line) }) },
    { loopback: 'here' },
  )
  const https = { http: 'https://10.0.0.7:7420' }
  const old = signRecord({ ...FACTS, ...https }, 1, NODE)
  const newer = signRecord({ ...FACTS, ...https, name: 'w1-new' }, 2, NODE)
  const { proof: _, ...unsigned } = newer
  const forged = { ...newer, http: 'https://10.6.6.6:1' }
  assert.equal(book.find(unsigned), undefined)
  assert.equal(book.find(forged), undefined)
  assert.equal(lines.length, 1, 'said once')
  assert.match(lines[0] ?? '', /record that its node did not sign was not used/)
  assert.equal(book.find(old)?.name, 'w1')
  assert.equal(book.find(newer)?.name, 'w1-new')
  assert.equal(book.find(old)?.name, 'w1-new')
  assert.equal(book.find(unsigned)?.name, 'w1-new')
  // The signature is that of the newest: so is all that is used.
  assert.equal(book.find(forged)?.http, https.http)
  assert.equal(lines.length, 1)
})

test('peer-book: loopback addresses are those of their own machine', () => {
  const find = (facts: Partial<PeerFacts>, here: string) => {
    const found = new PeerBook({ log }, { loopback: here }).find(
      signRecord({ ...FACTS, ...facts }, 1, NODE),
    )
    return [found?.http, found?.addresses]
  }
  const { addresses } = FACTS
  const [, outer] = addresses
  assert.deepEqual(find({}, 'there'), ['http://127.0.0.1:7420', addresses])
  assert.deepEqual(find({}, 'here'), [null, [outer]])
  assert.deepEqual(find({ http: 'http://[::1]:7420', addresses: [] }, 'here'), [null, []])
  assert.deepEqual(find({ http: 'http://localhost:7420' }, 'here'), [null, [outer]])
  assert.deepEqual(find({ http: 'https://[fd00::2]:7420' }, 'here'), [
    'https://[fd00::2]:7420',
    [outer],
  ])
  // Beyond the machine nothing is fetched in the clear, and nothing without a certificate to expect.
  assert.deepEqual(find({ http: 'http://10.0.0.7:7420' }, 'there'), [null, addresses])
  assert.deepEqual(find({ http: 'no URL' }, 'there'), [null, addresses])
  const { tls: _, ...bare } = { ...FACTS, http: 'https://10.0.0.7:7420' }
  const book = new PeerBook({ log }, { loopback: 'here' })
  assert.equal(book.find(signRecord(bare, 1, NODE))?.http, null)
})

test('loopback-id: the same for every process of this machine', async () => {
  const id = await loopbackId()
  assert.match(id, /^[0-9a-f]{32}$/)
  assert.equal(await loopbackId(), id)
})

/** An owner that counts what it mints, and can be away. */
function owner(clock: WallClock) {
  const self = { holder: NODE.peerId, certificate: sha256('certificate') }
  const state = { asked: 0, isAway: false, mintsFor: self, issuer: ROOT }
  const tokens = new Tokens(
    {
      clock,
      log,
      async ask(holder) {
        assert.deepEqual(holder, self)
        state.asked++
        if (state.isAway) throw new Error('away')
        return mintToken(state.mintsFor, clock.wallMs() + TOKEN_MS + state.asked, state.issuer)
      },
    },
    self,
  )
  return { tokens, state }
}

test('tokens: asked once for all who wait, renewed in time, kept while the owner is away', async () => {
  const clock = new WallClock(Date.UTC(2026, 0, 1))
  const { tokens, state } = owner(clock)
  assert.equal(tokens.issuer, undefined)
  const [first, same] = await Promise.all([
    tokens.current({ signal: never }),
    tokens.current({ signal: never }),
  ])
  assert.equal(first, same)
  assert.equal(state.asked, 1)
  assert.equal(tokens.issuer, ROOT.peerId)

  clock.step(TOKEN_MS / 3 - 1)
  tokens.beat()
  assert.equal(state.asked, 1)
  clock.step(1)
  tokens.beat()
  assert.equal(await tokens.current({ signal: never }), first, 'nobody waits for a renewal')
  await new Promise(setImmediate)
  const second = await tokens.current({ signal: never })
  assert.notEqual(second, first)

  state.isAway = true
  clock.step(TOKEN_MS * 2)
  tokens.beat()
  await new Promise(setImmediate)
  assert.equal(await tokens.current({ signal: never }), second)
  assert.equal(tokens.issuer, ROOT.peerId)
})

test('tokens: a refused one is replaced, but not again and again', async () => {
  const clock = new WallClock(Date.UTC(2026, 0, 1))
  const { tokens, state } = owner(clock)
  const first = await tokens.current({ signal: never })
  clock.step(20_000)
  const second = await tokens.current({ refused: first, signal: never })
  assert.notEqual(second, first)
  assert.equal(await tokens.current({ refused: first, signal: never }), second)
  await assert.rejects(tokens.current({ refused: second, signal: never }), { code: 'MESH0603' })
  assert.equal(state.asked, 2)
})

test('tokens: one for another node is not taken, and an owner that says nothing is not waited for', async () => {
  const clock = new WallClock(Date.UTC(2026, 0, 1))
  const { tokens, state } = owner(clock)
  state.mintsFor = { ...state.mintsFor, holder: ROOT.peerId }
  await assert.rejects(tokens.current({ signal: never }), { message: /is for another node/ })
  state.mintsFor = { holder: NODE.peerId, certificate: sha256('another') }
  await assert.rejects(tokens.current({ signal: never }), { message: /is for another node/ })
  assert.equal(tokens.issuer, undefined)

  const silent = new Tokens(
    { clock, log, ask: () => new Promise(() => undefined) },
    { holder: NODE.peerId, certificate: sha256('certificate') },
  )
  const waiting = silent.current({ signal: never })
  clock.step(10_000)
  await assert.rejects(waiting, { code: 'MESH0120' })
  const controller = new AbortController()
  const aborted = silent.current({ signal: controller.signal })
  controller.abort(new Error('not needed any more'))
  await assert.rejects(aborted, /not needed any more/)
})
