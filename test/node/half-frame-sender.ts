/** A peer that sends one whole frame and half of another, says so, and waits to be killed. */
import { noise } from '@chainsafe/libp2p-noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const [protocol = '', address = ''] = process.argv.slice(2)
const node = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
})
const stream = await node.dialProtocol(multiaddr(address), protocol)
stream.send(Buffer.concat([Buffer.of(0, 0, 0, 5), Buffer.from('whole')]))
stream.send(Buffer.concat([Buffer.of(0, 4, 0, 0), Buffer.alloc(100_000)]))
process.send?.('sent')
