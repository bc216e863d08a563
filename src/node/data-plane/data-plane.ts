/**
 * What a node needs to read blobs from others over HTTP and to let others read: its certificate, its signed
 * record, its token, the records of others, and the gate before its own blobs.
 */
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import { openHttpSource, type HttpSource } from '../../store/http-source.ts'
import type { PeerAccess } from '../../store/pinned-connector.ts'
import type { TokenHolder } from '../../wire/access-token.ts'
import type { PeerFacts, PeerRecord } from '../../wire/peer-record.ts'
import type { Signer } from '../../wire/result.ts'
import { identityDirectory } from '../process/identity.ts'
import { loopbackId } from '../process/loopback-id.ts'
import { Gate } from './gate.ts'
import { openRecordSigner } from './own-record.ts'
import { PeerBook } from './peer-book.ts'
import { openTlsIdentity, type TlsIdentity } from './tls-identity.ts'
import { Tokens } from './tokens.ts'

export interface DataPlane {
  readonly tls: TlsIdentity
  readonly tokens: Tokens
  readonly gate: Gate
  /** What this node says of itself, signed. */
  sign(facts: Omit<PeerFacts, 'peerId' | 'tls' | 'loopback'>): PeerRecord
  /** A peer as this node can reach it; undefined when nothing that it signed is known. */
  find(record: PeerRecord): PeerRecord | undefined
  /** The HTTP side, at `url`, of a peer that `find` gave. The caller disposes of it. */
  openHttp(peer: PeerRecord, url: string): HttpSource
}

export async function openDataPlane(
  deps: {
    readonly clock: Clock
    readonly random: Random
    readonly log: Logger
    readonly signer: Signer
    /** Asks the owner for a token. */
    readonly ask: (self: TokenHolder, signal: AbortSignal) => Promise<string>
  },
  options: { readonly dataDirectory: string; readonly isOpen: boolean },
): Promise<DataPlane> {
  const { clock, random, log, signer, ask } = deps
  const { peerId } = signer
  const directory = identityDirectory(options.dataDirectory)
  const [tls, signRecord, loopback] = await Promise.all([
    openTlsIdentity({ clock, random }, { directory, peerId }),
    openRecordSigner({ clock, signer }, { directory }),
    loopbackId(),
  ])
  const tokens = new Tokens({ clock, log, ask }, { holder: peerId, certificate: tls.digest })
  const book = new PeerBook({ log }, { loopback })
  return {
    tls,
    tokens,
    gate: new Gate({ clock, issuer: () => tokens.issuer }, { isOpen: options.isOpen }),
    sign: (facts) => signRecord({ ...facts, peerId, tls: tls.digest, loopback }),
    find: (record) => book.find(record),
    openHttp({ name, tls: certificate }, url) {
      const token: PeerAccess['token'] = (how) => tokens.current(how)
      const access =
        certificate === undefined || !url.startsWith('https:')
          ? {}
          : { access: { certificate, own: tls, token } }
      return openHttpSource({ clock }, { url, kind: 'peer', name: `${name} (${url})`, ...access })
    },
  }
}
