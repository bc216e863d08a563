/** Hosts, channels and messages for the tests of the network edge. */
import { pino } from 'pino'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { openHost, type Host } from '../../src/node/links/libp2p-host.ts'
import { WORK_VERSION, type HelloMessage } from '../../src/wire/work-messages.ts'

export const PROTOCOL = '/mesh/test/1'
export const LOOPBACK = '/ip4/127.0.0.1/tcp/0'
export const never = new AbortController().signal

/** The first byte of the seed makes the identity. */
export function host(
  identity: number,
  options: {
    readonly listen?: readonly string[]
    readonly admits?: (peerId: string) => boolean
    readonly clock?: Clock
  } = {},
): Promise<Host> {
  return openHost(
    { log: pino({ level: 'silent' }), clock: options.clock ?? systemClock() },
    {
      privateKeySeed: new Uint8Array(32).fill(identity),
      listen: options.listen ?? [LOOPBACK],
      admits: options.admits ?? (() => true),
      connectionsMax: 200,
    },
  )
}

/** The first address without the peer id. */
export function bareAddress(of: Host): string {
  return (of.listenAddresses()[0] ?? '').replace(/\/p2p\/.*/, '')
}

export function hello(
  peerId: string,
  name: string,
  versions: HelloMessage['versions'] = WORK_VERSION,
): HelloMessage {
  return {
    type: 'hello',
    versions,
    features: [],
    mesh: '0.1.0',
    protocols: [],
    record: { peerId, name, roles: ['worker'], addresses: [], http: null },
    boot: 'boot',
    epoch: 0,
  }
}

/** Gives I/O its turns until `check` holds; the runner's own limit ends it otherwise. */
export async function until(check: () => boolean): Promise<void> {
  while (!check())
    await new Promise<void>((resolve) => {
      setImmediate(resolve)
    })
}
