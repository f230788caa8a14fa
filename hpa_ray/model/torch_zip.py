"""The zip archive that torch.save makes, looked at before torch unpacks it. After: model/weights, checkpoint."""

import io
import zipfile


def verified(content: bytes) -> io.BytesIO:
    """An archive of the same entries for torch to read. Raises ValueError or zipfile.BadZipFile with what is wrong.

    torch itself does not look at the checksums, makes room for whatever size an entry claims to have, and reads the
    directory in its own way: of an entry that one changed bit declares to be a folder it makes a tensor of whatever
    was in the memory. So it gets entries whose checksums are right, in a directory that is written anew. torch.save
    packs nothing, so entries can not have more bytes than the archive.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(stream, "w") as copy:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > len(content):
            raise ValueError("it would grow when it is unpacked, which torch.save never makes")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it holds two entries of one name")
        for entry in entries:
            copy.writestr(zipfile.ZipInfo(entry.filename), archive.read(entry))
    stream.seek(0)
    return stream
