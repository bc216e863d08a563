/**
 * Which loopback interface this is: equal for two processes that reach each other at 127.0.0.1, and for no
 * others. On Linux that is one boot of one kernel, and one network namespace.
 */
import { readFile, readlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { sha256 } from '../../wire/digest.ts'

const HEX_DIGITS = 32

/** A hash: what it is made of is nobody's business. Where there is no /proc it hangs on the host's name. */
export async function loopbackId(): Promise<string> {
  const [boot, network] = await Promise.all([
    readFile('/proc/sys/kernel/random/boot_id', 'utf8').catch(() => hostname()),
    readlink('/proc/self/ns/net').catch(() => ''),
  ])
  return sha256(`${boot}\n${network}`).slice(0, HEX_DIGITS)
}
