/**
 * TLS to one peer, known by the hash of its certificate and by nothing else: no authority can vouch for
 * another one, and what the certificate says is not looked at.
 */
import { connect, createSecureContext } from 'node:tls'
import type { buildConnector } from 'undici'
import type { Clock } from '../base/clock.ts'
import { sha256, type Digest } from '../wire/digest.ts'
import { CONNECT_MS, SourceError } from './blob-source.ts'

/** What this node needs to read from a peer over TLS. */
export interface PeerAccess {
  /** sha256 of the DER of the certificate that the peer must show. */
  readonly certificate: Digest
  /** What this node shows, as PEM: its token is good with this certificate alone. */
  readonly own: { readonly key: string; readonly certificate: string }
  /** The token to show; another one than `refused`, which the peer has just not accepted. */
  readonly token: (options: {
    readonly refused?: string
    readonly signal: AbortSignal
  }) => Promise<string>
}

/** Nothing is sent before the certificate is found right. Only sessions that began so are resumed. */
export function pinnedConnector(
  deps: { readonly clock: Clock },
  { certificate, own }: Pick<PeerAccess, 'certificate' | 'own'>,
): buildConnector.connector {
  const secureContext = createSecureContext({ key: own.key, cert: own.certificate })
  let session: Buffer | undefined
  return ({ hostname, port }, callback) => {
    const socket = connect({
      host: hostname.replace(/^\[|\]$/g, ''),
      port: Number(port || 443),
      secureContext,
      minVersion: 'TLSv1.3',
      ALPNProtocols: ['http/1.1'],
      // Authorities have no say here: see below.
      rejectUnauthorized: false,
      ...(session === undefined ? {} : { session }),
    })
    socket.setNoDelay(true)
    socket.setKeepAlive(true)
    const end = (error: Error): void => {
      timer.cancel()
      socket.off('error', end)
      socket.on('error', () => undefined) // what else goes wrong with it is of no interest
      socket.destroy()
      callback(error, null)
    }
    const timer = deps.clock.setTimer(CONNECT_MS, () =>
      end(new SourceError('stalled', `made no connection within ${CONNECT_MS / 1000} s`)),
    )
    socket.once('error', end)
    socket.once('secureConnect', () => {
      socket.off('error', end)
      const observed = socket.getPeerX509Certificate()?.raw
      // A session goes on from a handshake in which the certificate was right, and shows none again.
      if (
        !socket.isSessionReused() &&
        (observed === undefined || sha256(observed) !== certificate)
      ) {
        end(
          new SourceError(
            'failed',
            `showed another certificate than its record says: expected sha256 ${certificate}, observed ${observed === undefined ? 'none' : sha256(observed)}`,
          ),
        )
        return
      }
      timer.cancel()
      socket.on('session', (ticket) => {
        session = ticket
      })
      callback(null, socket)
    })
  }
}
