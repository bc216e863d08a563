/** The texts that settings are written in: addresses, sizes, durations. Each parser gives undefined for any other text. */
import { BlockList, isIP } from 'node:net'
import { isAbsolute } from 'node:path'
import { PeerId } from '../../wire/names.ts'

export interface HostPort {
  /** A name or an address, IPv6 without brackets. */
  readonly host: string
  readonly port: number
}

const HOST_NAME = /^(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?$/

/** `127.0.0.1:7420`, `localhost:0`, `[::1]:7420`. */
export function parseHostPort(text: string): HostPort | undefined {
  const [, address, name, digits = ''] = /^(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})$/.exec(text) ?? []
  const host = address ?? name ?? ''
  const isHost = address === undefined ? isIP(host) === 4 || isHostName(host) : isIP(host) === 6
  const port = Number(digits)
  return isHost && port <= 65_535 ? { host, port } : undefined
}

/** What looks like an IPv4 address and is none, such as 127.0.0.256, is no name either. */
const isHostName = (host: string): boolean => HOST_NAME.test(host) && !/^[\d.]+$/.test(host)

interface TcpAddress extends HostPort {
  readonly peerId: string | undefined
}

/** A TCP multiaddr: `/ip4/127.0.0.1/tcp/7421`, `/dns4/ci-a.example/tcp/7421/p2p/12D3KooW…`. */
function parseMultiaddr(text: string): TcpAddress | undefined {
  const [, kind, host = '', digits = '', peerId] =
    /^\/(ip4|ip6|dns|dns4|dns6)\/([^/]+)\/tcp\/(\d{1,5})(?:\/p2p\/([^/]+))?$/.exec(text) ?? []
  const isHost =
    kind === 'ip4' ? isIP(host) === 4 : kind === 'ip6' ? isIP(host) === 6 : isHostName(host)
  if (kind === undefined || !isHost || Number(digits) > 65_535) return undefined
  if (peerId !== undefined && !PeerId.safeParse(peerId).success) return undefined
  return { host, port: Number(digits), peerId }
}

/** An address of this machine, port 0 for any free one. */
export function parseListenAddress(text: string): HostPort | undefined {
  const address = parseMultiaddr(text)
  return address !== undefined && address.peerId === undefined && isIP(address.host) !== 0
    ? address
    : undefined
}

/** An address of another node. */
export function parseDialAddress(text: string): TcpAddress | undefined {
  const address = parseMultiaddr(text)
  return address !== undefined && address.port !== 0 ? address : undefined
}

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/** Whether only this machine reaches what listens at `host`. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost') return true
  const family = isIP(host)
  return family !== 0 && LOOPBACK.check(host, family === 4 ? 'ipv4' : 'ipv6')
}

export function isHttpUrl(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)
}

/** `5%`, `0.5%`: as a part of one. */
export function parsePercent(text: string): number | undefined {
  const digits = /^(\d{1,3}(?:\.\d{1,4})?)\s?%$/.exec(text)?.[1]
  const percent = Number(digits ?? Number.NaN)
  return percent >= 0 && percent <= 100 ? percent / 100 : undefined
}

/** Of a variable of the XDG specification, which says that a relative path is to be ignored. */
export const parseAbsolutePath = (path: string | undefined): string | undefined =>
  path !== undefined && isAbsolute(path) ? path : undefined
