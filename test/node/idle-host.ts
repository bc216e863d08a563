/** A host in a process of its own, to be stopped and killed: answers each frame with itself. */
import { WORK_FRAME_BYTES_MAX } from '../../src/wire/frame-channel.ts'
import { host, LOOPBACK } from './hosts.ts'

const [identity = '9', listen = LOOPBACK, protocol = ''] = process.argv.slice(2)
const own = await host(Number(identity), { listen: [listen] })
await own.handle(protocol, { frameBytesMax: WORK_FRAME_BYTES_MAX, streamsMax: 8 }, (channel) => {
  void (async () => {
    for (;;) {
      const frame = await channel.receive()
      if (frame === undefined) return
      await channel.send(frame)
    }
  })()
})
process.send?.(own.listenAddresses())
